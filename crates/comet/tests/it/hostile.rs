//! Bad input: each peer gets the answer the protocol has for it, each is counted under its reason, and
//! the server goes on.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use comet_client::{Client, Transport, op};

use crate::peer::{BINARY, CLOSE, CloseNotice, Peer, UPGRADE, frame, frame_with, masked, unmasked};
use crate::support::{BOTH, Server, To, queued, received};

/// A client that does everything right, beside the one that does not.
struct Healthy(Client);

impl Healthy {
    fn join(server: &Server) -> Self {
        Self(server.client(Transport::Tcp, "7"))
    }

    /// The server still works.
    fn check(&mut self, server: &Server) {
        assert_eq!(server.push(To::Keys(&["7_1"]), 5, b"still there"), queued(1));
        assert_eq!(received(&mut self.0), b"still there");
    }
}

/// Counts by reason, as `/metrics` must show them in the end.
#[derive(Default)]
struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    fn count(&mut self, reason: &str) {
        *self.0.entry(reason.to_owned()).or_default() += 1;
    }

    fn check(self, server: &Server) {
        let closed = server.metrics().by_label("comet_closed_total");
        assert_eq!(closed, self.0.into_iter().collect::<Vec<_>>());
    }
}

/// A WebSocket frame of the protocol's operation 1000 with a body of `len` bytes.
fn payload(len: usize) -> Vec<u8> {
    frame(1000, 1, &vec![0; len])
}

#[test]
fn frames_that_are_none_are_answered_with_what_is_wrong_with_them() {
    let cases: &[(Vec<u8>, &str, &str)] = &[
        (frame_with(15, 16, 1000, 1, b""), "packLen is 15, less than", "bad_frame"),
        (frame_with(0, 16, 1000, 1, b""), "packLen is 0, less than", "bad_frame"),
        (frame_with(u32::MAX, 16, 1000, 1, b""), "the body has 4294967279 bytes", "bad_frame"),
        (frame_with(16 + 4097, 16, 1000, 1, b""), "the body has 4097 bytes", "bad_frame"),
        (frame_with(1 << 31, 16, 1000, 1, b""), "the body has 2147483632 bytes", "bad_frame"),
        (frame_with(16, 0, 1000, 1, b""), "headerLen is 0 instead of 16", "bad_frame"),
        (frame_with(16, 17, 1000, 1, b""), "headerLen is 17 instead of 16", "bad_frame"),
        (frame_with(16, 0xffff, 1000, 1, b""), "headerLen is 65535", "bad_frame"),
        (frame(op::RAW, 1, b""), "operation 9 is the server's", "raw_from_client"),
        (frame(op::RAW, 1, &frame(5, 1, b"x")), "operation 9 is the server's", "raw_from_client"),
        (frame(op::CHANGE_ROOM, 1, b"\xff"), "a room id is UTF-8", "bad_frame"),
        (frame(op::CHANGE_ROOM, 1, &[b'r'; 257]), "a room id of 257 bytes", "bad_frame"),
        (frame(op::SUBSCRIBE, 1, b"1000;1001"), "operations are decimal numbers", "bad_frame"),
        (frame(op::UNSUBSCRIBE, 1, b"9999999999"), "operations are decimal numbers", "bad_frame"),
        (frame(op::UNSUBSCRIBE, 1, many_operations().as_bytes()), "more than 64", "bad_frame"),
    ];
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut healthy = Healthy::join(&server);
        let mut reasons = Reasons::default();
        for (bytes, sentence, reason) in cases {
            let mut peer = Peer::live(&server, transport, "42");
            let bytes = peer.wrap(bytes);
            peer.write(&bytes);
            let CloseNotice { reason: said, close } = peer.close_notice();
            assert!(said.starts_with(sentence), "{said:?} instead of {sentence:?}");
            let code = (1002, format!("{reason}: {said}"));
            assert_eq!(close, (transport == Transport::WebSocket).then_some(code), "{sentence}");
            reasons.count(reason);
            healthy.check(&server);
        }
        reasons.check(&server);
    }
}

fn many_operations() -> String {
    let numbers: Vec<_> = (0..65).map(|number: i32| number.to_string()).collect();
    numbers.join(",")
}

/// Lengths are judged when they are there: nobody has to send what they announce.
#[test]
fn bad_lengths_are_refused_before_the_rest_arrives() {
    let server = Server::start(&[]);
    let mut healthy = Healthy::join(&server);
    let mut reasons = Reasons::default();
    let huge_message = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    let cases: &[(Transport, &[u8], &str)] = &[
        (Transport::Tcp, &[0, 0, 0, 15], "bad_frame"),
        (Transport::Tcp, &[0xff; 4], "bad_frame"),
        (Transport::Tcp, &[0, 0, 0, 16, 0, 17], "bad_frame"),
        (Transport::WebSocket, &huge_message, "websocket_too_large"),
        (Transport::WebSocket, &masked(BINARY, &payload(4097))[..8], "websocket_too_large"),
        (Transport::WebSocket, &masked(BINARY, &frame_with(15, 16, 1, 1, b"")), "bad_frame"),
    ];
    for (transport, bytes, reason) in cases {
        // Before the token and after it.
        for token in [None, Some("42")] {
            let mut peer = Peer::open(&server, *transport);
            if let Some(token) = token {
                peer.authenticate(token);
            }
            peer.write(bytes);
            if token.is_some() {
                peer.close_notice();
            } else {
                peer.close_frame();
            }
            reasons.count(reason);
            healthy.check(&server);
        }
    }
    reasons.check(&server);
}

#[test]
fn websocket_frames_against_the_rfc_are_closed_with_its_code() {
    let two_frames = [payload(0), payload(0)].concat();
    let cases: &[(&str, Vec<u8>, u16, &str)] = &[
        ("not masked", unmasked(BINARY, &payload(0)), 1002, "bad_websocket"),
        ("reserved bit", masked(0xc2, &payload(0)), 1002, "bad_websocket"),
        ("reserved opcode", masked(0x83, &payload(0)), 1002, "bad_websocket"),
        ("reserved control", masked(0x8b, b""), 1002, "bad_websocket"),
        ("continues nothing", masked(0x80, &payload(0)), 1002, "bad_websocket"),
        (
            "message in a message",
            [masked(0x02, &payload(0)[..3]), masked(BINARY, &payload(0))].concat(),
            1002,
            "bad_websocket",
        ),
        ("fragmented ping", masked(0x09, b"x"), 1002, "bad_websocket"),
        ("long ping", masked(0x89, &[0; 126]), 1002, "bad_websocket"),
        ("half a close code", masked(CLOSE, &[3]), 1002, "bad_websocket"),
        ("forbidden close code", masked(CLOSE, &1005_u16.to_be_bytes()), 1002, "bad_websocket"),
        ("close without UTF-8", masked(CLOSE, b"\x03\xe8\xff"), 1007, "bad_websocket"),
        ("text", masked(0x81, b"hello"), 1003, "websocket_text"),
        ("too long", masked(BINARY, &payload(4097)), 1009, "websocket_too_large"),
        (
            "too long in fragments",
            [masked(0x02, &payload(4096)), masked(0x80, b"x")].concat(),
            1009,
            "websocket_too_large",
        ),
        ("two frames in a message", masked(BINARY, &two_frames), 1002, "bad_frame"),
        ("half a frame in a message", masked(BINARY, &payload(9)[..20]), 1002, "bad_frame"),
        ("an empty message", masked(BINARY, b""), 1002, "bad_frame"),
    ];
    let server = Server::start(&[]);
    let mut healthy = Healthy::join(&server);
    let mut reasons = Reasons::default();
    for (name, bytes, code, reason) in cases {
        for token in [None, Some("42")] {
            let mut peer = Peer::open(&server, Transport::WebSocket);
            if let Some(token) = token {
                peer.authenticate(token);
            }
            peer.write(bytes);
            let close = match token {
                Some(_) => peer.close_notice().close,
                None => peer.close_frame(),
            };
            let (said, text) = close.expect("a close frame");
            assert_eq!(said, *code, "{name}");
            let sentence = text.strip_prefix(&format!("{reason}: "));
            assert!(sentence.is_some_and(|sentence| !sentence.is_empty()), "{name}: {text}");
            reasons.count(reason);
            healthy.check(&server);
        }
    }
    reasons.check(&server);
}

#[test]
fn what_the_rfc_allows_is_served() {
    let server = Server::start(&[]);
    let mut peer = Peer::live_1(&server, Transport::WebSocket, "42");
    // A ping between the fragments of a message, one of which is empty; the longest message.
    let longest = payload(4096);
    peer.write(&masked(0x02, &longest[..100]));
    peer.write(&masked(0x89, b"ping"));
    assert_eq!(peer.read_websocket(), (0x8a, b"ping".to_vec()));
    peer.write(&masked(0x00, b""));
    peer.write(&masked(0x8a, b"a pong nobody asked for"));
    peer.write(&masked(0x80, &longest[100..]));
    assert_eq!(peer.read_websocket(), (BINARY, payload(0)));
    // A close notice is answered, and nothing follows.
    peer.write(&masked(CLOSE, b"\x03\xe9going away"));
    let (code, _) = peer.read_close();
    assert_eq!(code, 1001);
    peer.expect_end();
    assert_eq!(server.metrics().closed("peer_closed"), 1);
}

#[test]
fn bad_upgrades_get_their_http_status() {
    let without = |header: &str| {
        let lines = UPGRADE.split("\r\n").filter(|line| !line.starts_with(header));
        lines.collect::<Vec<_>>().join("\r\n")
    };
    let with = |from: &str, to: &str| {
        let changed = UPGRADE.replace(from, to);
        assert_ne!(changed, UPGRADE, "{from}");
        changed
    };
    let cases: &[(String, u16)] = &[
        (with("GET", "POST"), 405),
        (with("GET", "HEAD"), 405),
        (with("/sub", "/"), 404),
        (with("/sub", "/sub/"), 404),
        (with("/sub", "/other"), 404),
        (with("Version: 13", "Version: 8"), 426),
        (without("Sec-WebSocket-Version"), 400),
        (without("Sec-WebSocket-Key"), 400),
        (without("Connection"), 400),
        (without("Upgrade"), 400),
        (with("Upgrade: websocket", "Upgrade: h2c"), 400),
        (with("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400),
        (with("HTTP/1.1", "HTTP/1.0"), 400),
        ("hello\r\n\r\n".to_owned(), 400),
        ("\r\n\r\n".to_owned(), 400),
        // At once, though the blank line of such a request never comes.
        (UPGRADE.replace("\r\n", "\n"), 400),
        (UPGRADE.replace("\r\n", "\r"), 400),
        ("EHLO comet.example\r\n".to_owned(), 400),
        (with("/sub", &format!("/sub?{}", "x".repeat(16 << 10))), 414),
        (with("Host: comet", &format!("Host: {}", "x".repeat(16 << 10))), 431),
        (with("Host: comet", &"X: y\r\n".repeat(200)), 431),
        ("x".repeat(16 << 10), 431),
    ];
    let server = Server::start(&[]);
    let mut healthy = Healthy::join(&server);
    let mut reasons = Reasons::default();
    for (request, status) in cases {
        let mut peer = Peer::connect(server.address(Transport::WebSocket), Transport::WebSocket);
        peer.write(request.as_bytes());
        let head = peer.read_head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {head}");
        assert_eq!(head.contains("\r\nAllow: GET\r\n"), *status == 405, "{head}");
        assert_eq!(head.contains("\r\nSec-WebSocket-Version: 13\r\n"), *status == 426, "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        peer.read(length.expect("the answer has a body").parse().unwrap());
        peer.expect_end();
        reasons.count("bad_upgrade");
        healthy.check(&server);
    }
    reasons.check(&server);
}

#[test]
fn a_query_and_other_headers_do_not_spoil_an_upgrade() {
    let server = Server::start(&[r#"websocket.path="/push""#]);
    let request = UPGRADE
        .replace("/sub", "/push?from=web")
        .replace("Connection: Upgrade", "connection: keep-alive, upgrade\r\nCookie: a=b")
        .replace("Upgrade: websocket", "upgrade: WebSocket");
    let mut peer = Peer::connect(server.address(Transport::WebSocket), Transport::WebSocket);
    peer.write(request.as_bytes());
    peer.expect_upgraded();
    peer.authenticate("42");
    let mut other = Peer::connect(server.address(Transport::WebSocket), Transport::WebSocket);
    other.write(UPGRADE.as_bytes());
    assert!(other.read_head().starts_with("HTTP/1.1 404 "));
}

#[test]
fn peers_that_leave_at_any_point_leave_nothing_behind() {
    let server = Server::start(&[]);
    let mut healthy = Healthy::join(&server);
    for transport in BOTH {
        let address = server.address(transport);
        drop(Peer::connect(address, transport));
        let mut early = Peer::connect(address, transport);
        early.write(&UPGRADE.as_bytes()[..40]);
        drop(early);
        let mut half = Peer::open(&server, transport);
        let bytes = half.wrap(&frame(op::AUTH, 1, b"42"));
        half.write(&bytes[..bytes.len() - 1]);
        drop(half);
        let mut unheard = Peer::open(&server, transport);
        unheard.send(op::AUTH, 1, b"42");
        drop(unheard);
        drop(Peer::live(&server, transport, "42"));
        healthy.check(&server);
    }
    server.until("comet_connections", 1);
    server.until("comet_keys", 1);
    server.until("comet_users", 1);
    server.until("comet_rooms", 1);
    healthy.check(&server);
}

#[test]
fn connections_beyond_the_limit_are_turned_away() {
    let server = Server::start(&["limits.connections=2"]);
    let mut kept = Vec::new();
    let mut refused = 0;
    while kept.len() < 4 {
        let mut peer = Peer::connect(server.address(Transport::Tcp), Transport::Tcp);
        // The server may be gone before anything is written.
        let _ = peer.stream.write_all(&frame(op::AUTH, 1, b"42"));
        match peer.stream.read_exact(&mut [0; 16]) {
            Ok(()) => kept.push(peer),
            Err(_) => refused += 1,
        }
    }
    let mut one_more = Peer::connect(server.address(Transport::Tcp), Transport::Tcp);
    one_more.expect_end();
    let metrics = server.metrics();
    assert_eq!(metrics.value("comet_refused_total"), refused + 1);
    assert_eq!(metrics.value("comet_connections"), 4);
    // One leaves: there is room again.
    drop(kept.pop());
    server.until("comet_connections", 3);
    assert_eq!(server.push(To::All, 5, b"hi"), queued(3));
}
