//! Properties that hold for any bytes of a peer. The fuzz targets search for bytes that violate
//! them; the crate's tests check them on the corpus.

use comet_proto::websocket::{self, Event, Fault, Fragments};
use comet_proto::{Encoded, count_frames, decode, op, proxy};

const BODY_MAX: usize = 4096;
const MESSAGE_MAX: usize = 512;
const HEAD_MAX: usize = 1024;

/// A stream of frames: encoding a decoded frame gives its bytes, and no byte changes the result for
/// those before it.
pub(crate) fn frame(stream: &[u8]) {
    let mut rest = stream;
    loop {
        let result = decode(rest, BODY_MAX);
        for cut in 0..rest.len().min(24) {
            let early = decode(&rest[..cut], BODY_MAX);
            assert!(early == Ok(None) || early == result, "{early:?}, then {result:?}");
        }
        let Ok(Some((frame, consumed))) = result else {
            break;
        };
        let encoded = Encoded::frame(&frame);
        assert!(encoded.for_websocket().ends_with(&rest[..consumed]));
        if frame.operation == op::RAW {
            assert_eq!(encoded.for_tcp(), frame.body);
        } else {
            assert_eq!(encoded.for_tcp(), &rest[..consumed]);
        }
        rest = &rest[consumed..];
    }

    if let Ok(frames) = count_frames(stream) {
        let mut rest = stream;
        for _ in 0..frames {
            let (_, consumed) =
                decode(rest, usize::MAX).unwrap().expect("a frame that was counted");
            rest = &rest[consumed..];
        }
        assert!(rest.is_empty());
    }
}

/// A stream of WebSocket frames: the events are the same whether it arrives at once or byte by
/// byte, and they are within the limits.
pub(crate) fn websocket(stream: &[u8]) {
    assert_eq!(see(stream, stream.len().max(1)), see(stream, 1));
}

/// The events of a stream that arrives in pieces of `piece_len`, a line for each, and its fault.
fn see(stream: &[u8], piece_len: usize) -> (Vec<String>, Option<Fault>) {
    let mut fragments: Option<Box<Fragments>> = None;
    let mut scratch = Vec::new();
    let mut seen = Vec::new();
    let (mut start, mut end) = (0, 0);
    for piece in stream.chunks(piece_len) {
        end += piece.len();
        loop {
            let unread = &stream[start..end];
            match websocket::read(unread, &mut fragments, &mut scratch, MESSAGE_MAX) {
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
        Event::Ping(payload) => {
            assert!(Encoded::pong(payload).for_websocket().ends_with(payload));
        }
        Event::Close(Some(code)) => assert!((1000..5000).contains(&code)),
        Event::Close(None) | Event::Pong | Event::Fragment => {}
    }
}

/// The head of an HTTP request: the bytes up to its end decide the result, and the response is
/// complete.
pub(crate) fn upgrade(input: &[u8]) {
    let result = websocket::upgrade(input, "/sub", HEAD_MAX);
    for cut in 0..input.len() {
        let early = websocket::upgrade(&input[..cut], "/sub", HEAD_MAX);
        if early != Ok(None) {
            assert_eq!(early, result, "after {cut} bytes");
            break;
        }
    }
    let response = match result {
        Ok(None) => return assert!(input.len() < HEAD_MAX),
        Ok(Some(upgrade)) => {
            assert!(upgrade.consumed <= input.len().min(HEAD_MAX));
            assert!(input[..upgrade.consumed].ends_with(b"\n"));
            upgrade.response
        }
        Err(fault) => fault.response(),
    };
    let response = String::from_utf8(response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").expect("a blank line");
    assert!(head.starts_with("HTTP/1.1 "));
    assert_eq!(head.starts_with("HTTP/1.1 101 "), body.is_empty());
}

/// A PROXY header: the bytes up to its end decide the result, within the bound.
pub(crate) fn proxy(input: &[u8]) {
    let result = proxy::read(input);
    for cut in 0..input.len().min(proxy::HEADER_MAX) {
        let early = proxy::read(&input[..cut]);
        if early != Ok(None) {
            assert_eq!(early, result, "after {cut} bytes");
            break;
        }
    }
    match result {
        Ok(None) => assert!(input.len() < proxy::HEADER_MAX),
        Ok(Some(header)) => assert!(header.consumed <= input.len().min(proxy::HEADER_MAX)),
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
}
