//! RFC 6455, case by case: what a client sends and what the server answers. The cases are those that concern
//! a server of binary messages: framing, reserved bits, opcodes, control frames, fragmentation and closing.
//!
//! Each case is sent in one piece and byte by byte; the answer must be the same.

use comet_core::{CloseReason, Limits, Transport};

use crate::rig::{Rig, UPGRADE, frame, plain};

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;

/// The state of the connection after a case.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Open,
    /// Closed by the client's close frame.
    Returned,
    /// Closed with this code, because the client broke the rules.
    Fault(u16),
}

/// The frames of a client, one after the other.
#[derive(Clone, Default)]
struct Client(Vec<u8>);

impl Client {
    /// A frame with this first byte.
    fn frame(mut self, first: u8, payload: &[u8]) -> Self {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        self.0.push(first);
        match payload.len() {
            short @ 0..=125 => self.0.push(0x80 | short as u8),
            long => {
                self.0.push(0x80 | 126);
                self.0.extend((long as u16).to_be_bytes());
            }
        }
        self.0.extend(mask);
        self.0.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A heartbeat, which is answered while the connection is open.
    fn heartbeat(self) -> Self {
        self.frame(FIN | BINARY, &frame(2, 1, b""))
    }
}

fn client() -> Client {
    Client::default()
}

/// The answer to [`Client::heartbeat`].
fn beat() -> Vec<u8> {
    plain(0x82, &frame(3, 1, &[0; 4]))
}

fn pong(payload: &[u8]) -> Vec<u8> {
    plain(0x8a, payload)
}

#[track_caller]
fn check(case: &str, sent: &Client, answers: &[Vec<u8>], end: End) {
    for piece in [sent.0.len().max(1), 1] {
        let mut rig = Rig::new(1, Limits::default());
        let conn = rig.connect(0, Transport::WebSocket);
        rig.feed(conn, UPGRADE);
        rig.feed(conn, &client().frame(FIN | BINARY, &frame(7, 1, b"7/k//")).0);
        rig.take(conn);
        for bytes in sent.0.chunks(piece) {
            rig.feed(conn, bytes);
        }
        let mut answer = rig.take(conn);
        assert!(answer.starts_with(&answers.concat()), "{case}: {answer:x?}");
        answer.drain(..answers.concat().len());
        match end {
            End::Open => {
                assert_eq!(answer, b"", "{case}");
                assert!(!rig.is_closed(conn), "{case}");
                assert_eq!(rig.ask(conn, &client().heartbeat().0), beat(), "{case}");
            }
            End::Returned => {
                assert_eq!(answer, b"", "{case}");
                assert_eq!(rig.reason(conn), CloseReason::PeerClosed, "{case}");
            }
            End::Fault(code) => {
                // Operation 6 as a message, then the close frame.
                let notice = usize::from(answer[1]) + 2;
                assert_eq!(answer[notice..][..1], [FIN | CLOSE], "{case}");
                assert_eq!(answer[notice + 2..][..2], code.to_be_bytes(), "{case}");
                assert_ne!(rig.reason(conn), CloseReason::PeerClosed, "{case}");
            }
        }
    }
}

#[test]
fn messages_of_every_length_encoding() {
    for body in [0, 1, 109, 110, 111, 112, 4096] {
        let message = frame(4, 1, &vec![0xfe; body]);
        let reply = plain(0x82, &frame(4, 1, b""));
        let sent = client().frame(FIN | BINARY, &message);
        check(&format!("a body of {body} bytes"), &sent, &[reply], End::Open);
    }
    // Lengths in more bytes than needed are taken: the meaning is clear.
    let beat_of = |length: &[u8]| {
        let bytes = client().heartbeat().0;
        client().bytes(&bytes[..1]).bytes(length).bytes(&bytes[2..])
    };
    check("16 bytes in 16 bits", &beat_of(&[0xfe, 0, 16]), &[beat()], End::Open);
    let sent = beat_of(&[0xff, 0, 0, 0, 0, 0, 0, 0, 16]);
    check("16 bytes in 64 bits", &sent, &[beat()], End::Open);
    for length in [4113_u64, 1 << 31, i64::MAX as u64, 1 << 63, u64::MAX] {
        let sent =
            client().bytes(&[FIN | BINARY, 0xff]).bytes(&length.to_be_bytes()).bytes(&[0; 4]);
        check(&format!("{length} bytes announced"), &sent, &[], End::Fault(1009));
    }
}

#[test]
fn pings_and_pongs() {
    for payload in
        [&b""[..], b"Hello, world!", &[0, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0, 0xff], &[0xfe; 125]]
    {
        let sent = client().frame(FIN | PING, payload);
        check(&format!("a ping of {}", payload.len()), &sent, &[pong(payload)], End::Open);
        let sent = client().frame(FIN | PONG, payload);
        check(&format!("an unasked pong of {}", payload.len()), &sent, &[], End::Open);
    }
    for opcode in [PING, PONG, CLOSE] {
        let sent = client().frame(FIN | opcode, &[0x61; 126]);
        check(&format!("126 bytes in control frame {opcode}"), &sent, &[], End::Fault(1002));
    }
    let sent = client().frame(FIN | PONG, b"unasked").frame(FIN | PING, b"asked");
    check("a pong before a ping", &sent, &[pong(b"asked")], End::Open);
    let payloads: Vec<String> = (0..10).map(|number| format!("payload {number}")).collect();
    let sent = payloads.iter().fold(client(), |sent, ping| sent.frame(FIN | PING, ping.as_bytes()));
    let answers: Vec<_> = payloads.iter().map(|payload| pong(payload.as_bytes())).collect();
    check("ten pings", &sent, &answers, End::Open);
}

#[test]
fn reserved_bits_and_opcodes() {
    let heartbeat = frame(2, 1, b"");
    for bits in 1..8 {
        let rsv = bits << 4;
        for (opcode, payload) in [
            (BINARY, &heartbeat[..]),
            (TEXT, b"text"),
            (PING, b""),
            (PONG, b""),
            (CLOSE, b"\x03\xe8"),
        ] {
            let sent = client().heartbeat().frame(FIN | rsv | opcode, payload).heartbeat();
            let case = format!("reserved bits {bits} with opcode {opcode}");
            check(&case, &sent, &[beat()], End::Fault(1002));
        }
        let sent = client()
            .frame(BINARY, &heartbeat[..5])
            .frame(FIN | rsv | CONTINUATION, &heartbeat[5..]);
        check("reserved bits in a fragment", &sent, &[], End::Fault(1002));
    }
    for opcode in (3..8).chain(11..16) {
        for payload in [&b""[..], b"payload"] {
            let sent = client().heartbeat().frame(FIN | opcode, payload).frame(FIN | PING, b"");
            check(&format!("opcode {opcode}"), &sent, &[beat()], End::Fault(1002));
        }
    }
    let unmasked = client().heartbeat().bytes(&plain(FIN | BINARY, &heartbeat));
    check("no mask", &unmasked, &[beat()], End::Fault(1002));
    let sent = client().frame(FIN | TEXT, b"Hello");
    check("text, which is not spoken here", &sent, &[], End::Fault(1003));
    check("text in fragments", &client().frame(TEXT, b"Hel"), &[], End::Fault(1003));
}

#[test]
fn fragmentation() {
    let message = frame(2, 1, b"");
    let (first, rest) = message.split_at(7);
    let (middle, last) = rest.split_at(3);
    let start = || client().frame(BINARY, first);

    for opcode in [PING, PONG, CLOSE] {
        let sent = client().frame(opcode, b"");
        check(&format!("control frame {opcode} in fragments"), &sent, &[], End::Fault(1002));
    }
    let whole = start().frame(FIN | CONTINUATION, rest);
    check("two fragments", &whole, &[beat()], End::Open);
    let three = start().frame(CONTINUATION, middle).frame(FIN | CONTINUATION, last);
    check("three fragments", &three, &[beat()], End::Open);
    let empty = client()
        .frame(BINARY, b"")
        .frame(CONTINUATION, &message)
        .frame(CONTINUATION, b"")
        .frame(FIN | CONTINUATION, b"");
    check("fragments without payload", &empty, &[beat()], End::Open);
    let bytes = message
        .iter()
        .fold(client().frame(BINARY, b""), |sent, byte| sent.frame(CONTINUATION, &[*byte]));
    check("a byte a fragment", &bytes.frame(FIN | CONTINUATION, b""), &[beat()], End::Open);

    let inside = start()
        .frame(FIN | PING, b"one")
        .frame(CONTINUATION, middle)
        .frame(FIN | PONG, b"")
        .frame(FIN | PING, b"two")
        .frame(FIN | CONTINUATION, last);
    check("control frames inside", &inside, &[pong(b"one"), pong(b"two"), beat()], End::Open);
    let twice = whole.clone().frame(FIN | PING, b"between").bytes(&whole.0);
    check("two messages", &twice, &[beat(), pong(b"between"), beat()], End::Open);

    for first in [CONTINUATION, FIN | CONTINUATION] {
        let sent = client().heartbeat().frame(first, rest).heartbeat();
        check("a continuation of nothing", &sent, &[beat()], End::Fault(1002));
        let sent = Client(whole.0.clone()).frame(first, rest);
        check("a continuation after the end", &sent, &[beat()], End::Fault(1002));
    }
    for first in [BINARY, FIN | BINARY, TEXT, FIN | TEXT] {
        let sent = start().frame(first, rest);
        check("a message inside a message", &sent, &[], End::Fault(1002));
    }
    let sent = start().frame(FIN | CLOSE, b"\x03\xe8");
    check("a close inside", &sent, &[plain(0x88, b"\x03\xe8peer_closed")], End::Returned);
    let long = client().frame(BINARY, &[0; 4000]).frame(CONTINUATION, &[0; 113]);
    check("fragments that are too long together", &long, &[], End::Fault(1009));
}

#[test]
fn closing() {
    let returned = |code: u16| plain(0x88, &[&code.to_be_bytes()[..], b"peer_closed"].concat());
    check("no code", &client().frame(FIN | CLOSE, b""), &[plain(0x88, b"")], End::Returned);
    for code in (1000..=1003_u16).chain(1007..=1014).chain([3000, 3999, 4000, 4999]) {
        for reason in [&b""[..], "café".as_bytes(), &[b'x'; 123]] {
            let payload = [&code.to_be_bytes()[..], reason].concat();
            let sent = client().heartbeat().frame(FIN | CLOSE, &payload);
            check(&format!("close {code}"), &sent, &[beat(), returned(code)], End::Returned);
        }
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535_u16] {
        let sent = client().frame(FIN | CLOSE, &code.to_be_bytes());
        check(&format!("close {code}"), &sent, &[], End::Fault(1002));
    }
    check("half a code", &client().frame(FIN | CLOSE, b"\x03"), &[], End::Fault(1002));
    for reason in
        [&b"\xff"[..], b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80edited", b"\xf4\x90\x80\x80"]
    {
        let sent = client().frame(FIN | CLOSE, &[b"\x03\xe8", reason].concat());
        check("a reason that is not UTF-8", &sent, &[], End::Fault(1007));
    }
    let close = || client().frame(FIN | CLOSE, b"\x0f\xa0");
    for (case, sent) in [
        ("a message after the close", close().heartbeat()),
        ("a ping after the close", close().frame(FIN | PING, b"late")),
        ("a second close", close().frame(FIN | CLOSE, b"\x03\xe8")),
        ("bytes without meaning after the close", close().bytes(&[0xff; 64])),
    ] {
        check(case, &sent, &[returned(4000)], End::Returned);
    }
}
