//! The cost of the wire protocol: encoding a frame for both transports, decoding a client's input.

use std::hint::black_box;

use comet_proto::websocket::{Accepted, Event, MessageKinds, read, upgrade};
use comet_proto::{Encoded, Frame, VERSION, count_frames, decode, op};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

const BODIES: [usize; 3] = [10, 128, 4096];
/// Frames in a batch, as goim's job makes them.
const BATCH: usize = 20;

fn main() {
    divan::main();
}

/// Encoding a push, which happens once for all members and both transports.
#[divan::bench(args = BODIES)]
fn encode(bencher: Bencher, body: usize) {
    let body = vec![b'x'; body];
    let frame = Frame { version: VERSION, operation: 1000, sequence: 0, body: &body };
    bencher.counter(BytesCount::of_slice(&body)).bench(|| Encoded::frame(black_box(&frame)));
}

#[divan::bench]
fn encode_batch(bencher: Bencher) {
    let run = run(10);
    let frame = Frame { version: VERSION, operation: op::RAW, sequence: 0, body: &run };
    bencher.counter(ItemsCount::new(BATCH)).bench(|| Encoded::frame(black_box(&frame)));
}

/// The check of a batch by control.
#[divan::bench]
fn check_batch(bencher: Bencher) {
    let run = run(10);
    bencher
        .counter(ItemsCount::new(BATCH))
        .bench(|| assert_eq!(count_frames(black_box(&run)), Ok(BATCH)));
}

/// Decoding a client's frames of one read.
#[divan::bench(args = BODIES)]
fn decode_run(bencher: Bencher, body: usize) {
    let run = run(body);
    bencher.counter(ItemsCount::new(BATCH)).bench(|| {
        let mut rest = black_box(&run[..]);
        while let Ok(Some((frame, length))) = decode(rest, 4096) {
            black_box(frame);
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
    });
}

/// Reading and unmasking a client's message.
#[divan::bench(args = BODIES)]
fn unmask(bencher: Bencher, body: usize) {
    let message = masked(&vec![b'x'; body]);
    let mut scratch = Vec::new();
    let mut fragments = None;
    bencher.counter(BytesCount::new(body)).bench_local(|| {
        let read = read(
            black_box(&message),
            &mut fragments,
            &mut scratch,
            Accepted { message_max: 4096 + 16, kinds: MessageKinds::Binary, deflate: false },
        );
        assert!(matches!(read, Ok(Some((Event::Message(payload), _))) if payload.len() == body));
    });
}

/// The upgrade request of a browser.
#[divan::bench]
fn upgrade_of_a_browser(bencher: Bencher) {
    const REQUEST: &[u8] = b"GET /sub HTTP/1.1\r\n\
        Host: push.example.com\r\n\
        Connection: Upgrade\r\n\
        Pragma: no-cache\r\n\
        Cache-Control: no-cache\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
        Upgrade: websocket\r\n\
        Origin: https://www.example.com\r\n\
        Sec-WebSocket-Version: 13\r\n\
        Accept-Encoding: gzip, deflate, br, zstd\r\n\
        Accept-Language: en-US,en;q=0.9\r\n\
        Cookie: session=0123456789abcdef0123456789abcdef\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    bencher.bench(|| {
        let upgrade = upgrade(black_box(REQUEST), "/sub", 8192);
        assert!(matches!(&upgrade, Ok(Some(upgrade)) if upgrade.consumed == REQUEST.len()));
        upgrade
    });
}

/// A batch of frames with bodies of so many bytes.
fn run(body: usize) -> Vec<u8> {
    let body = vec![b'x'; body];
    let frame = Frame { version: VERSION, operation: op::SEND, sequence: 7, body: &body };
    Encoded::frame(&frame).for_tcp().repeat(BATCH)
}

/// A whole binary message as a client sends it, with the example mask of RFC 6455 5.7.
fn masked(payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut message = match payload.len() {
        length @ ..126 => vec![0x82, 0x80 | length as u8],
        length => [&[0x82, 0x80 | 126], &(length as u16).to_be_bytes()[..]].concat(),
    };
    message.extend(mask);
    message.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    message
}
