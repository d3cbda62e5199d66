//! Exact bytes, written by hand.

use comet_proto::websocket::{Accepted, MessageKinds, Upgrade, read, upgrade};
use comet_proto::{AuthReply, Encoded, Frame, VERSION, VERSION_2, count_frames, decode, op};

use crate::support::{BINARY, FIN, GOOD_HEADERS, masked, request};

const AUTH: &[u8] = b"\0\0\0\x12\0\x10\0\x01\0\0\0\x07\0\0\0\x0142";
const HEARTBEAT: &[u8] = b"\0\0\0\x10\0\x10\0\x01\0\0\0\x02\0\0\0\x03";
const UNUSUAL: &[u8] = b"\0\0\0\x11\0\x10\xff\xfe\xff\xff\xff\xff\x80\0\0\0!";

fn frame(operation: i32, sequence: i32, body: &[u8]) -> Frame<'_> {
    Frame { version: VERSION, operation, sequence, body }
}

#[test]
fn frames_on_tcp() {
    #[track_caller]
    fn check(bytes: &[u8], frame: Frame<'_>) {
        assert_eq!(decode(bytes, 4096), Ok(Some((frame, bytes.len()))));
        assert_eq!(Encoded::frame(&frame).for_tcp(), bytes);
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut], 4096), Ok(None), "{cut} bytes");
        }
    }
    check(AUTH, frame(op::AUTH, 1, b"42"));
    check(HEARTBEAT, frame(op::HEARTBEAT, 3, b""));
    check(UNUSUAL, Frame { version: 0xfffe, operation: -1, sequence: i32::MIN, body: b"!" });
}

#[test]
fn an_auth_that_asks_for_protocol_2_and_its_reply() {
    let ask = Frame { version: VERSION_2, ..frame(op::AUTH, 1, b"42") };
    let bytes = b"\0\0\0\x12\0\x10\0\x02\0\0\0\x07\0\0\0\x0142";
    assert_eq!(Encoded::frame(&ask).for_tcp(), bytes);
    let auth_reply = AuthReply {
        not_renewed: None,
        heartbeat_ms: 300_000,
        expires_in_ms: Some(3_600_000),
        kept: None,
    };
    let body = auth_reply.encode();
    let reply = Frame { version: VERSION_2, ..frame(op::AUTH_REPLY, 1, &body) };
    let bytes = b"\0\0\0\x1c\0\x10\0\x02\0\0\0\x08\0\0\0\x01\x02\0\0\0\0\x04\x93\xe0\0\x36\xee\x80";
    assert_eq!(Encoded::frame(&reply).for_tcp(), bytes);
}

#[test]
fn decode_leaves_the_following_frame() {
    let stream = [AUTH, HEARTBEAT].concat();
    assert_eq!(decode(&stream, 4096), Ok(Some((frame(op::AUTH, 1, b"42"), AUTH.len()))));
}

#[test]
fn a_body_at_the_limit_is_accepted() {
    assert_eq!(decode(AUTH, 2), Ok(Some((frame(op::AUTH, 1, b"42"), 18))));
    assert_eq!(decode(HEARTBEAT, 0), Ok(Some((frame(op::HEARTBEAT, 3, b""), 16))));
}

#[test]
fn websocket_frames_have_one_header_before_the_frame() {
    let encoded = Encoded::frame(&frame(op::AUTH, 1, b"42"));
    assert_eq!(encoded.for_websocket(), [b"\x82\x12", AUTH].concat());
}

#[test]
fn websocket_header_lengths() {
    #[track_caller]
    fn check(message_len: usize, header: &[u8]) {
        let body = vec![b'x'; message_len - 16];
        let encoded = Encoded::frame(&frame(op::SEND_REPLY, 0, &body));
        assert_eq!(encoded.for_tcp().len(), message_len);
        assert_eq!(encoded.for_websocket(), [header, encoded.for_tcp()].concat());

        let sent = masked(FIN | BINARY, [1, 2, 3, 4], encoded.for_tcp());
        let mut scratch = Vec::new();
        let accepted =
            Accepted { message_max: message_len, kinds: MessageKinds::Binary, deflate: false };
        let (_, consumed) = read(&sent, &mut None, &mut scratch, accepted).unwrap().unwrap();
        assert_eq!(consumed, sent.len());
        assert_eq!(scratch, encoded.for_tcp());
    }
    check(16, b"\x82\x10");
    check(125, b"\x82\x7d");
    check(126, b"\x82\x7e\x00\x7e");
    check(65_535, b"\x82\x7e\xff\xff");
    check(65_536, b"\x82\x7f\0\0\0\0\0\x01\0\0");
}

#[test]
fn a_batch() {
    let batch = [AUTH, HEARTBEAT].concat();
    let encoded = Encoded::frame(&frame(op::RAW, 0, &batch));
    assert_eq!(encoded.for_tcp(), batch);
    let header = b"\x82\x32\0\0\0\x32\0\x10\0\x01\0\0\0\x09\0\0\0\0";
    assert_eq!(encoded.for_websocket(), [&header[..], &batch].concat());
}

#[test]
fn a_long_batch() {
    let batch = AUTH.repeat(10);
    let encoded = Encoded::frame(&frame(op::RAW, 7, &batch));
    assert_eq!(encoded.for_tcp(), batch);
    let header = b"\x82\x7e\0\xc4\0\0\0\xc4\0\x10\0\x01\0\0\0\x09\0\0\0\x07";
    assert_eq!(encoded.for_websocket(), [&header[..], &batch].concat());
}

#[test]
fn an_empty_batch_sends_nothing_on_tcp() {
    let encoded = Encoded::frame(&frame(op::RAW, 0, b""));
    assert_eq!(encoded.for_tcp(), b"");
    assert_eq!(encoded.for_websocket(), b"\x82\x10\0\0\0\x10\0\x10\0\x01\0\0\0\x09\0\0\0\0");
}

#[test]
fn frames_of_a_batch_are_counted() {
    assert_eq!(count_frames(b""), Ok(0));
    assert_eq!(count_frames(AUTH), Ok(1));
    assert_eq!(count_frames(&[AUTH, HEARTBEAT, UNUSUAL].concat()), Ok(3));
}

#[test]
fn control_frames_are_for_websocket_alone() {
    #[track_caller]
    fn check(encoded: &Encoded, bytes: &[u8]) {
        assert_eq!(encoded.for_websocket(), bytes);
        assert_eq!(encoded.for_tcp(), b"");
    }
    check(&Encoded::pong(b""), b"\x8a\x00");
    check(&Encoded::pong(b"Hello"), b"\x8a\x05Hello");
    check(&Encoded::close(1001, ""), b"\x88\x02\x03\xe9");
    check(&Encoded::close(1002, "bad"), b"\x88\x05\x03\xeabad");
    check(&Encoded::pong(&[7; 125]), &[&b"\x8a\x7d"[..], &[7; 125]].concat());
}

#[test]
fn a_close_reason_is_cut_between_characters() {
    #[track_caller]
    fn check(reason: &str, sent: &str) {
        let encoded = Encoded::close(1000, reason);
        assert_eq!(&encoded.for_websocket()[4..], sent.as_bytes());
        assert_eq!(usize::from(encoded.for_websocket()[1]), 2 + sent.len());
    }
    check(&"x".repeat(123), &"x".repeat(123));
    check(&"x".repeat(124), &"x".repeat(123));
    check(&"é".repeat(62), &"é".repeat(61));
    check(&"語".repeat(50), &"語".repeat(41));
}

#[test]
fn is_frame_compares_all_fields() {
    let frame = Frame { version: 1, operation: 8, sequence: 7, body: b"body" };
    let encoded = Encoded::frame(&frame);
    assert!(encoded.is_frame(&frame));
    assert!(!encoded.is_frame(&Frame { sequence: 8, ..frame }));
    assert!(!encoded.is_frame(&Frame { operation: 3, ..frame }));
    assert!(!encoded.is_frame(&Frame { body: b"bodies", ..frame }));
    assert!(!encoded.is_frame(&Frame { body: b"bod", ..frame }));
    assert!(!Encoded::close(1000, "").is_frame(&frame));
}

#[test]
fn verbatim_bytes_are_the_same_on_both_transports() {
    let encoded = Encoded::verbatim(b"HTTP/1.1 404 Not Found\r\n\r\n");
    assert_eq!(encoded.for_tcp(), b"HTTP/1.1 404 Not Found\r\n\r\n");
    assert_eq!(encoded.for_websocket(), encoded.for_tcp());
}

#[test]
fn an_upgrade() {
    #[track_caller]
    fn check(line: &str, more: &[&str], cookie: Option<&str>, origin: Option<&str>) {
        let mut stream = request(line, &[&GOOD_HEADERS, more].concat());
        let head_len = stream.len();
        stream.extend(masked(FIN | BINARY, [9; 4], AUTH));
        for cut in 0..head_len {
            assert_eq!(upgrade(&stream[..cut], "/sub", 1024), Ok(None), "{cut} bytes");
        }
        let response = b"HTTP/1.1 101 Switching Protocols\r\n\
            Upgrade: websocket\r\n\
            Connection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        let expected = Upgrade {
            response: response.to_vec(),
            consumed: head_len,
            cookie: cookie.map(Into::into),
            origin: origin.map(Into::into),
            deflate: None,
        };
        // Offers of extensions have tests of their own.
        let found = upgrade(&stream, "/sub", head_len).unwrap().unwrap();
        assert_eq!(Upgrade { deflate: None, ..found }, expected);
    }
    check("GET /sub HTTP/1.1", &[], None, None);
    check("GET /sub?x=1 HTTP/1.1", &[], None, None);
    check("GET http://comet.example/sub HTTP/1.1", &[], None, None);
    check(
        "GET /sub HTTP/1.1",
        &["Cookie: sid=1; u=2", "Origin: https://a.example"],
        Some("sid=1; u=2"),
        Some("https://a.example"),
    );
    check("GET /sub HTTP/1.1", &["cookie: café"], Some("café"), None);
    let cookies = ["Cookie: sid=1", "X: y", "cookie: u=2", "Cookie: v=3"];
    check("GET /sub HTTP/1.1", &cookies, Some("sid=1; u=2; v=3"), None);
    check(
        "GET /sub HTTP/1.1",
        &["Sec-WebSocket-Extensions: permessage-deflate", "Sec-WebSocket-Protocol: chat"],
        None,
        None,
    );
}

/// Forms that proxies and clients give the headers; each is an upgrade by RFC 9110 5.3 and RFC 6455 4.2.1.
#[test]
fn headers_that_are_lists() {
    let version = "Sec-WebSocket-Version: 13";
    // The example of RFC 6455 4.1: its last digit has bits beyond the sixteenth byte.
    let key = "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==";
    for lists in [
        &["Connection: keep-alive", "Connection: Upgrade", "Upgrade: websocket"][..],
        &["Connection: Upgrade", "Connection: keep-alive", "Upgrade: websocket"],
        &["connection: keep-alive ,\tUPGRADE", "upgrade: WebSocket"],
        &["Connection: Upgrade,,", "Upgrade: h2c, websocket"],
        &["Connection: Upgrade, Upgrade", "Upgrade: h2c", "Upgrade: websocket"],
    ] {
        let head = request("GET /sub HTTP/1.1", &[lists, &[version, key]].concat());
        let upgrade = upgrade(&head, "/sub", 1024).expect("an upgrade").expect("whole");
        assert!(upgrade.response.ends_with(b"\r\n\r\n"), "{lists:?}");
    }
    for lists in [
        ["Connection: keep-alive Upgrade", "Upgrade: websocket"],
        ["Connection: X-Upgrade", "Upgrade: websocket"],
        ["Connection: Upgrade", "Upgrade: websockets"],
    ] {
        let head = request("GET /sub HTTP/1.1", &[&lists[..], &[version, key]].concat());
        assert!(upgrade(&head, "/sub", 1024).is_err(), "{lists:?}");
    }
}

#[test]
fn a_head_of_any_length_is_found() {
    for padding in 0..8 {
        let pad = format!("X: {}", "x".repeat(padding));
        let head = request("GET /sub HTTP/1.1", &[&GOOD_HEADERS[..], &[&pad]].concat());
        assert_eq!(upgrade(&head[..head.len() - 1], "/sub", 1024), Ok(None));
        let upgrade = upgrade(&head, "/sub", head.len()).unwrap().unwrap();
        assert_eq!(upgrade.consumed, head.len());
    }
}

#[test]
fn a_cookie_that_is_not_utf_8_is_accepted() {
    let mut head = request("GET /sub HTTP/1.1", &GOOD_HEADERS);
    head.truncate(head.len() - 2);
    head.extend(b"Cookie: a=\xff\r\n\r\n");
    let upgrade = upgrade(&head, "/sub", 1024).unwrap().unwrap();
    assert_eq!(upgrade.cookie.as_deref(), Some("a=\u{fffd}"));
}
