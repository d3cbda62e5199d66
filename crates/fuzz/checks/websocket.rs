//! A stream of WebSocket frames: the events are the same whether it arrives at once or byte by
//! byte, and they are within the limits.

use comet_proto::Encoded;
use comet_proto::websocket::{self, Accepted, Event, Fault, Fragments, MessageKinds};

const MESSAGE_MAX: usize = 512;

pub(crate) fn check(stream: &[u8]) {
    for kinds in [MessageKinds::Binary, MessageKinds::Text, MessageKinds::Any] {
        for deflate in [false, true] {
            let accepted = Accepted { message_max: MESSAGE_MAX, kinds, deflate };
            assert_eq!(see(stream, stream.len().max(1), accepted), see(stream, 1, accepted));
        }
    }
}

/// The events of a stream that arrives in pieces of `piece_len`, a line for each, and its fault.
fn see(stream: &[u8], piece_len: usize, accepted: Accepted) -> (Vec<String>, Option<Fault>) {
    let mut fragments: Option<Box<Fragments>> = None;
    let mut scratch = Vec::new();
    let mut seen = Vec::new();
    let (mut start, mut end) = (0, 0);
    for piece in stream.chunks(piece_len) {
        end += piece.len();
        loop {
            let unread = &stream[start..end];
            match websocket::read(unread, &mut fragments, &mut scratch, accepted) {
                Ok(None) => break,
                Ok(Some((event, consumed))) => {
                    within_limits(event);
                    seen.push(format!("{event:?}"));
                    start += consumed;
                }
                Err(fault) => return (seen, Some(fault)),
            }
        }
    }
    (seen, None)
}

fn within_limits(event: Event<'_>) {
    match event {
        Event::Message(payload) => assert!(payload.len() <= MESSAGE_MAX),
        // A compressed message may be a little longer.
        Event::Compressed { payload, .. } => assert!(payload.len() <= 2 * MESSAGE_MAX),
        Event::Text(text) => assert!(text.len() <= MESSAGE_MAX),
        Event::Ping(payload) => {
            assert!(Encoded::pong(payload).for_websocket().ends_with(payload));
        }
        Event::Close(Some(code)) => assert!((1000..5000).contains(&code)),
        Event::Close(None) | Event::Pong | Event::Fragment => {}
    }
}
