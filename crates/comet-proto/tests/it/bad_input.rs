//! Bad frames: the fault, the byte at which it is found, and the close code.

use comet_proto::websocket::Fault;
use comet_proto::{FrameFault, count_frames, decode};

use crate::support::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Reader, TEXT, masked};

const BODY_MAX: usize = 4096;
const MESSAGE_MAX: usize = 16 + BODY_MAX;

#[test]
fn bad_frames_are_refused() {
    /// Checks that `bytes` are refused as soon as the first `shown_by` of them have arrived.
    #[track_caller]
    fn check(bytes: &[u8], shown_by: usize, fault: FrameFault, text: &str) {
        for end in 0..=bytes.len() {
            let expected = if end < shown_by { Ok(None) } else { Err(fault) };
            assert_eq!(decode(&bytes[..end], BODY_MAX), expected, "{end} bytes");
        }
        assert_eq!(fault.to_string(), text);
    }
    let too_large = |body_len| FrameFault::BodyTooLarge { body_len, body_max: BODY_MAX };

    check(
        b"\0\0\0\0",
        4,
        FrameFault::PackLen { pack_len: 0 },
        "packLen is 0, less than the 16 bytes of a header",
    );
    check(
        b"\0\0\0\x0f\0\x10\0\x01\0\0\0\x07\0\0\0",
        4,
        FrameFault::PackLen { pack_len: 15 },
        "packLen is 15, less than the 16 bytes of a header",
    );
    check(
        b"\0\0\x10\x11\0\x10",
        4,
        too_large(4097),
        "the body has 4097 bytes, more than the 4096 allowed",
    );
    check(
        b"\x80\0\0\0",
        4,
        too_large(0x7fff_fff0),
        "the body has 2147483632 bytes, more than the 4096 allowed",
    );
    check(
        b"\xff\xff\xff\xff\xff\xff",
        4,
        too_large(0xffff_ffef),
        "the body has 4294967279 bytes, more than the 4096 allowed",
    );
    check(
        b"\0\0\0\x10\0\x0f\0\x01\0\0\0\x07\0\0\0\0",
        6,
        FrameFault::HeaderLen { header_len: 15 },
        "headerLen is 15 instead of 16",
    );
    check(
        b"GET /sub HTTP/1.1\r\n",
        4,
        too_large(0x4745_5410),
        "the body has 1195725840 bytes, more than the 4096 allowed",
    );
}

#[test]
fn bad_batches_are_refused() {
    #[track_caller]
    fn check(tail: &[u8], fault: FrameFault) {
        let good = b"\0\0\0\x11\0\x10\0\x01\0\0\0\x05\0\0\0\0!";
        assert_eq!(count_frames(&[good, tail].concat()), Err(fault));
        assert_eq!(count_frames(tail), Err(fault));
    }
    check(b"\0", FrameFault::Truncated { left: 1 });
    check(b"\0\0\0\x11\0\x10\0\x01\0\0\0\x05\0\0\0\0", FrameFault::Truncated { left: 16 });
    check(b"\xff\xff\xff\xff\0\x10", FrameFault::Truncated { left: 6 });
    check(b"\0\0\0\x01", FrameFault::PackLen { pack_len: 1 });
    check(b"\0\0\0\x10\x10\0", FrameFault::HeaderLen { header_len: 4096 });
    assert_eq!(
        FrameFault::Truncated { left: 6 }.to_string(),
        "the last 6 bytes are not a whole frame"
    );
}

#[test]
fn bad_websocket_frames_are_refused() {
    /// Checks that the last of `frames` is refused as soon as its first `shown_by` bytes have
    /// arrived.
    #[track_caller]
    fn check(frames: &[&[u8]], shown_by: usize, fault: Fault, code: u16) {
        let (last, good) = frames.split_last().unwrap();
        let mut reader = Reader::default();
        let mut seen = Vec::new();
        reader.feed(&good.concat(), MESSAGE_MAX, &mut seen).unwrap();
        assert_eq!(seen.len(), good.len());

        reader.feed(&last[..shown_by - 1], MESSAGE_MAX, &mut seen).unwrap();
        assert_eq!(reader.feed(&last[shown_by - 1..], MESSAGE_MAX, &mut seen), Err(fault));
        assert_eq!(seen.len(), good.len());
        assert_eq!(fault.close_code(), code, "{fault}");
    }
    let mask = [0x12, 0x34, 0x56, 0x78];
    let plain = |first, payload: &[u8]| masked(first, mask, payload);
    let open = &plain(BINARY, b"begin");
    let close = |payload: &[u8]| masked(FIN | CLOSE, mask, payload);

    check(&[b"\x82\x00"], 2, Fault::NotMasked, 1002);
    check(&[b"\x82\x03abc"], 2, Fault::NotMasked, 1002);
    check(&[b"\x89\x00"], 2, Fault::NotMasked, 1002);
    check(&[&plain(FIN | 0x40 | BINARY, b"")], 6, Fault::ReservedBits, 1002);
    check(&[&plain(FIN | 0x20 | BINARY, b"")], 6, Fault::ReservedBits, 1002);
    check(&[&plain(FIN | 0x10 | PING, b"")], 6, Fault::ReservedBits, 1002);
    check(&[&plain(FIN | 0x3, b"")], 6, Fault::ReservedOpcode, 1002);
    check(&[&plain(FIN | 0x7, b"xy")], 6, Fault::ReservedOpcode, 1002);
    check(&[&plain(FIN | 0xb, b"")], 6, Fault::ReservedOpcode, 1002);
    check(&[&plain(FIN | 0xf, b"")], 6, Fault::ReservedOpcode, 1002);
    check(&[&plain(FIN | PING, &[0; 126])], 8, Fault::ControlTooLong, 1002);
    check(&[&close(&[0; 65_536])], 14, Fault::ControlTooLong, 1002);
    check(&[&plain(PING, b"")], 6, Fault::ControlFragmented, 1002);
    check(&[open, &plain(PONG, b"")], 6, Fault::ControlFragmented, 1002);
    check(&[&plain(FIN | CONTINUATION, b"x")], 6, Fault::UnexpectedContinuation, 1002);
    check(&[&plain(CONTINUATION, b"x")], 6, Fault::UnexpectedContinuation, 1002);
    check(
        &[open, &plain(FIN | CONTINUATION, b""), &plain(CONTINUATION, b"")],
        6,
        Fault::UnexpectedContinuation,
        1002,
    );
    check(&[open, &plain(FIN | BINARY, b"x")], 6, Fault::ExpectedContinuation, 1002);
    check(&[open, &plain(BINARY, b"x")], 6, Fault::ExpectedContinuation, 1002);
    check(&[open, &plain(FIN | TEXT, b"x")], 6, Fault::ExpectedContinuation, 1002);
    check(&[&plain(FIN | TEXT, b"hi")], 6, Fault::Text, 1003);
    check(&[&plain(TEXT, b"hi")], 6, Fault::Text, 1003);

    let whole = &[0; MESSAGE_MAX];
    check(&[&plain(FIN | BINARY, &[0; MESSAGE_MAX + 1])], 8, Fault::TooLarge, 1009);
    check(&[&plain(BINARY, &[0; MESSAGE_MAX + 1])], 8, Fault::TooLarge, 1009);
    check(&[&plain(BINARY, whole), &plain(CONTINUATION, b"x")], 6, Fault::TooLarge, 1009);
    check(
        &[open, &plain(FIN | PING, b""), &plain(FIN | CONTINUATION, whole)],
        8,
        Fault::TooLarge,
        1009,
    );
    check(&[b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"], 14, Fault::TooLarge, 1009);
    check(&[open, b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"], 14, Fault::TooLarge, 1009);

    check(&[&close(b"\x03")], 7, Fault::BadClose, 1002);
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535_u16] {
        check(&[&close(&code.to_be_bytes())], 8, Fault::BadClose, 1002);
    }
    check(&[&close(b"\x03\xe8\xff")], 9, Fault::BadCloseReason, 1007);
    check(&[&close(b"\x03\xe8caf\xc3")], 12, Fault::BadCloseReason, 1007);
}

#[test]
fn messages_up_to_the_limit_are_accepted() {
    let mask = [1, 2, 3, 4];
    let stream = [
        masked(FIN | BINARY, mask, &[7; MESSAGE_MAX]),
        masked(BINARY, mask, &[7; MESSAGE_MAX]),
        masked(FIN | CONTINUATION, mask, b""),
        masked(FIN | PING, mask, &[7; 125]),
    ];
    let mut seen = Vec::new();
    Reader::default().feed(&stream.concat(), MESSAGE_MAX, &mut seen).unwrap();
    assert_eq!(seen.len(), 4);
}
