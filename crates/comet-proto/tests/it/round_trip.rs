//! Round trips of streams that are cut anywhere.

use comet_proto::{Encoded, Frame, count_frames, decode, op};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Reader, Seen, masked, pieces};

#[derive(Clone, Debug)]
struct OwnedFrame {
    version: u16,
    operation: i32,
    sequence: i32,
    body: Vec<u8>,
}

impl OwnedFrame {
    fn view(&self) -> Frame<'_> {
        let Self { version, operation, sequence, .. } = *self;
        Frame { version, operation, sequence, body: &self.body }
    }
}

/// Any frame except a batch.
fn frame() -> impl Strategy<Value = OwnedFrame> {
    let operation = any::<i32>().prop_filter("a batch", |operation| *operation != op::RAW);
    (any::<u16>(), operation, any::<i32>(), vec(any::<u8>(), 0..300)).prop_map(
        |(version, operation, sequence, body)| OwnedFrame { version, operation, sequence, body },
    )
}

/// Lengths of the pieces a stream arrives in.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![vec(1..4_usize, 1..8), vec(1..200_usize, 1..8), Just(vec![usize::MAX])]
}

/// A control frame, as its first byte and payload, and the event a reader must see.
fn control() -> impl Strategy<Value = (u8, Vec<u8>, Seen)> {
    let payload = || vec(any::<u8>(), 0..=125);
    let code = prop_oneof![1000..=1003_u16, 1007..=1013_u16, 3000..=4999_u16];
    prop_oneof![
        payload().prop_map(|payload| (FIN | PING, payload.clone(), Seen::Ping(payload))),
        payload().prop_map(|payload| (FIN | PONG, payload, Seen::Pong)),
        (code, "\\PC{0,30}").prop_map(|(code, reason)| {
            let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
            (FIN | CLOSE, payload, Seen::Close(Some(code)))
        }),
        Just((FIN | CLOSE, Vec::new(), Seen::Close(None))),
    ]
}

/// A fragment of a message, its mask, and the control frames sent after it.
type MessageFragment = (Vec<u8>, [u8; 4], Vec<(u8, Vec<u8>, Seen)>);

fn message() -> impl Strategy<Value = Vec<MessageFragment>> {
    vec((vec(any::<u8>(), 0..200), any::<[u8; 4]>(), vec(control(), 0..3)), 1..5)
}

/// Appends `message` to the stream, one frame for each fragment, and the events a reader must see
/// to `expected`.
fn send(message: &[MessageFragment], stream: &mut Vec<u8>, expected: &mut Vec<Seen>) {
    let mut whole = Vec::new();
    for (index, (payload, mask, controls)) in message.iter().enumerate() {
        let opcode = if index == 0 { BINARY } else { CONTINUATION };
        let fin = if index + 1 == message.len() { FIN } else { 0 };
        stream.extend(masked(fin | opcode, *mask, payload));
        whole.extend_from_slice(payload);
        expected.push(if fin == 0 { Seen::Fragment } else { Seen::Message(whole.clone()) });
        for (first, payload, seen) in controls {
            stream.extend(masked(*first, *mask, payload));
            expected.push(seen.clone());
        }
    }
}

proptest! {
    #[test]
    fn frames_survive_tcp(frames in vec(frame(), 0..6), cuts in cuts()) {
        let mut stream = Vec::new();
        for frame in &frames {
            stream.extend_from_slice(Encoded::frame(&frame.view()).for_tcp());
        }
        prop_assert_eq!(count_frames(&stream), Ok(frames.len()));

        let mut expected = frames.iter();
        let mut unread = Vec::new();
        for piece in pieces(&stream, &cuts) {
            unread.extend_from_slice(piece);
            while let Some((frame, consumed)) = decode(&unread, 300).unwrap() {
                prop_assert_eq!(Some(frame), expected.next().map(OwnedFrame::view));
                unread.drain(..consumed);
            }
        }
        prop_assert!(expected.next().is_none());
        prop_assert!(unread.is_empty());
    }

    #[test]
    fn a_batch_contains_its_frames(frames in vec(frame(), 0..6), sequence in any::<i32>()) {
        let mut batch = Vec::new();
        for frame in &frames {
            batch.extend_from_slice(Encoded::frame(&frame.view()).for_tcp());
        }
        let outer = Frame { version: 1, operation: op::RAW, sequence, body: &batch };
        let encoded = Encoded::frame(&outer);
        prop_assert_eq!(encoded.for_tcp(), &batch);
        let message_len = comet_proto::HEADER_LEN + batch.len();
        let message = &encoded.for_websocket()[encoded.for_websocket().len() - message_len..];
        prop_assert_eq!(decode(message, usize::MAX), Ok(Some((outer, message_len))));
    }

    #[test]
    fn messages_survive_websocket(messages in vec(message(), 0..4), cuts in cuts()) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for message in &messages {
            send(message, &mut stream, &mut expected);
        }
        let mut reader = Reader::default();
        let mut seen = Vec::new();
        for piece in pieces(&stream, &cuts) {
            reader.feed(piece, 1000, &mut seen).unwrap();
        }
        prop_assert_eq!(seen, expected);
        prop_assert!(reader.is_idle());
    }

    #[test]
    fn frames_survive_websocket(frame in frame(), mask in any::<[u8; 4]>(), at in any::<prop::sample::Index>()) {
        let encoded = Encoded::frame(&frame.view());
        let (left, right) = encoded.for_tcp().split_at(at.index(encoded.for_tcp().len()));
        let stream = [masked(BINARY, mask, left), masked(FIN | CONTINUATION, mask, right)].concat();
        let mut seen = Vec::new();
        Reader::default().feed(&stream, 316, &mut seen).unwrap();
        let Some(Seen::Message(message)) = seen.pop() else {
            panic!("no message, but {seen:?}");
        };
        prop_assert_eq!(decode(&message, 300), Ok(Some((frame.view(), message.len()))));
    }

    #[test]
    fn close_reasons_are_cut_to_fit(reason in "\\PC{0,200}") {
        let encoded = Encoded::close(1001, &reason);
        let sent = std::str::from_utf8(&encoded.for_websocket()[4..]).unwrap();
        prop_assert!(reason.starts_with(sent));
        prop_assert!(sent.len() <= 123);
        prop_assert!(sent.len() == reason.len() || sent.len() > 123 - 4);
    }
}
