//! Input that a peer must not send, and the close reason for it.

use std::sync::Arc;

use comet_core::{CloseReason, Limits, Message, SocketShutdown, Transport};

use crate::rig::{Rig, UPGRADE, frame, key_at, masked, plain, room_at};

/// A TCP client that is authenticated sends `bytes`, in one piece and byte by byte.
fn check_tcp(bytes: &[u8], reason: CloseReason, detail: &str) {
    for pieces in [bytes.len(), 1] {
        let mut rig = Rig::new(1, Limits::default());
        let conn = rig.join(0, "7/k/r/");
        for piece in bytes.chunks(pieces) {
            rig.feed(conn, piece);
        }
        assert_eq!(rig.reason(conn), reason);
        let notice = String::from_utf8(rig.take(conn).split_off(16)).unwrap();
        assert_eq!(notice, detail);
        assert_eq!(rig.shut(conn), Some(SocketShutdown::Write));
        // Input after that is discarded.
        assert_eq!(rig.ask(conn, &frame(2, 1, b"")), b"");
        assert_eq!(rig.shards[0].keys().count(), 0);
        assert!(rig.shards[0].home_rooms().is_empty());
        rig.hang_up(conn);
        assert_eq!(rig.shards[0].counters().connections, 0);
    }
}

/// A WebSocket client that is authenticated sends `bytes`.
fn check_websocket(bytes: &[u8], reason: CloseReason, code: u16, detail: &str) {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.connect(0, Transport::WebSocket);
    rig.ask(conn, &[UPGRADE, &masked(0x82, &frame(7, 1, b"7/k//"))].concat());
    let notice = rig.ask(conn, bytes);
    let text = format!("{}: {detail}", reason.label());
    let close = [&code.to_be_bytes(), text.as_bytes()].concat();
    let expected = [plain(0x82, &frame(6, 0, detail.as_bytes())), plain(0x88, &close)].concat();
    assert_eq!(String::from_utf8_lossy(&notice), String::from_utf8_lossy(&expected));
    assert_eq!(rig.reason(conn), reason);
}

/// A frame whose two lengths are `pack_len` and `header_len`.
fn lengths(pack_len: u32, header_len: u16) -> Vec<u8> {
    [&pack_len.to_be_bytes()[..], &header_len.to_be_bytes(), &[0; 10]].concat()
}

#[test]
fn lengths_are_hostile_input() {
    let bad = CloseReason::BadFrame;
    for pack_len in [0, 1, 15] {
        let detail = format!("packLen is {pack_len}, less than the 16 bytes of a header");
        check_tcp(&lengths(pack_len, 16), bad, &detail);
    }
    for pack_len in [16 + 4097, 1 << 24, i32::MAX as u32, 1 << 31, u32::MAX - 15, u32::MAX] {
        let detail = format!("the body has {} bytes, more than the 4096 allowed", pack_len - 16);
        check_tcp(&lengths(pack_len, 16), bad, &detail);
    }
    for header_len in [0, 15, 17, u16::MAX] {
        check_tcp(
            &lengths(16, header_len),
            bad,
            &format!("headerLen is {header_len} instead of 16"),
        );
    }
}

#[test]
fn the_largest_body_is_taken() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.join(0, "7/k//");
    assert_eq!(rig.ask(conn, &frame(4, 1, &[9; 4096])), frame(4, 1, b""));
}

#[test]
fn bodies_that_their_operation_cannot_take() {
    let bad = CloseReason::BadFrame;
    check_tcp(&frame(9, 1, b""), CloseReason::RawFromClient, "operation 9 is the server's");
    check_tcp(&frame(12, 1, b"\xff"), bad, "a room id is UTF-8");
    let detail = "a room id of 257 bytes; at most 256 are taken";
    check_tcp(&frame(12, 1, &[b'r'; 257]), bad, detail);
    let detail = "operations are decimal numbers with commas between them";
    for body in ["x", "1,", ",1", "1,,2", "1.5", "2147483648", "1;2"] {
        check_tcp(&frame(14, 1, body.as_bytes()), bad, detail);
        check_tcp(&frame(16, 1, body.as_bytes()), bad, detail);
    }
    let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    check_tcp(&frame(16, 1, many.join(",").as_bytes()), bad, "more than 64 operations");
}

#[test]
fn websocket_frames_that_break_the_rules_close_the_connection() {
    let (bad, heartbeat) = (CloseReason::BadWebSocket, frame(2, 1, b""));
    let check = |bytes: Vec<u8>, detail| check_websocket(&bytes, bad, 1002, detail);
    check(plain(0x82, &heartbeat), "a client's frame is not masked");
    check(masked(0xc2, &heartbeat), "a reserved bit is set");
    check(masked(0x80, &heartbeat), "a continuation follows no message");
    check(masked(0x09, b"ping"), "a control frame is fragmented");
    let inside = [masked(0x02, b"half"), masked(0x82, &heartbeat)].concat();
    check(inside, "a message begins inside a fragmented one");
    let detail = "a text message, where only binary ones are spoken";
    check_websocket(&masked(0x81, b"hello"), CloseReason::WebSocketText, 1003, detail);
    let detail = "the message is larger than allowed";
    let huge = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    for bytes in [huge, [&[0x82, 0xfe][..], &4113_u16.to_be_bytes(), &[0; 4]].concat()] {
        check_websocket(&bytes, CloseReason::WebSocketTooLarge, 1009, detail);
    }
    let two = masked(0x82, &[heartbeat.clone(), heartbeat.clone()].concat());
    let detail = "a WebSocket message is one whole frame";
    check_websocket(&two, CloseReason::BadFrame, 1002, detail);
    check_websocket(&masked(0x82, &heartbeat[..15]), CloseReason::BadFrame, 1002, detail);
    let raw = masked(0x82, &frame(9, 1, b""));
    check_websocket(&raw, CloseReason::RawFromClient, 1002, "operation 9 is the server's");
}

#[test]
fn a_bad_upgrade_is_answered_with_its_status() {
    let good = std::str::from_utf8(UPGRADE).unwrap();
    let check = |request: &str, status: &str| {
        let mut rig = Rig::new(1, Limits::default());
        let conn = rig.connect(0, Transport::WebSocket);
        let response = rig.ask(conn, request.as_bytes());
        let response = String::from_utf8(response).unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {response}");
        assert_eq!(rig.reason(conn), CloseReason::BadUpgrade);
        assert_eq!(rig.shut(conn), Some(SocketShutdown::Write));
    };
    check(&good.replace("GET", "POST"), "405 Method Not Allowed");
    check(&good.replace("/sub", "/other"), "404 Not Found");
    check(&good.replace("Version: 13", "Version: 8"), "426 Upgrade Required");
    for header in ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"] {
        check(&good.replace(&format!("\r\n{header}"), ""), "400 Bad Request");
    }
    check(&good.replace("Sec-WebSocket-Key", "X-Key"), "400 Bad Request");
    check("hello\r\n\r\n", "400 Bad Request");
    let long = format!("X: {}\r\n\r\n", "x".repeat(Limits::default().head_max));
    check(&good.replace("\r\n\r\n", &format!("\r\n{long}")), "431 Request Header Fields Too Large");
}

#[test]
fn input_held_beyond_its_bound_closes_the_connection() {
    let mut rig = Rig::new(2, Limits::default());
    // The room's home does not answer, so the input of the connection that joins it is held.
    rig.held.extend([(0, 1), (1, 0)]);
    let conn = rig.join(0, &format!("/{}//", key_at(0)));
    rig.feed(conn, &frame(12, 1, room_at(1).as_bytes()));
    for _ in 0..16 {
        rig.feed(conn, &frame(4, 1, &[9; 4096]));
        assert!(!rig.is_closed(conn));
    }
    rig.feed(conn, &frame(4, 1, &[9; 4096]));
    assert_eq!(rig.reason(conn), CloseReason::InputOverflow);
}

#[test]
fn a_client_that_asks_and_never_reads_is_closed() {
    let mut rig = Rig::new(1, Limits { cli_proto: 4, ..Limits::default() });
    let conn = rig.join(0, "7/k//");
    rig.allow(conn, Some(0));
    for _ in 0..4 {
        rig.feed(conn, &frame(2, 1, b""));
        assert!(!rig.is_closed(conn));
    }
    rig.feed(conn, &frame(2, 1, b""));
    assert_eq!(rig.reason(conn), CloseReason::ReplyOverflow);
}

#[test]
fn a_full_shard_refuses_connections() {
    let mut rig = Rig::new(1, Limits { connections: 1, ..Limits::default() });
    let conn = rig.join(0, "7/k//");
    assert_eq!(rig.shards[0].handle_accept(Transport::Tcp), None);
    assert_eq!(rig.shards[0].counters().refused, 1);
    rig.hang_up(conn);
    rig.join(0, "7/k//");
}

#[test]
fn a_process_out_of_memory_accepts_no_client() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.join(0, "7/k//");
    let configure = |rig: &mut Rig, is_out_of_memory| {
        let limits = Limits { is_out_of_memory, ..Limits::default() };
        rig.send_all(&Message::Configure { limits: Arc::new(limits) });
    };
    configure(&mut rig, true);
    assert_eq!(rig.shards[0].handle_accept(Transport::Tcp), None);
    let counters = rig.shards[0].counters();
    assert_eq!((counters.refused, counters.refused_for_memory), (0, 1));
    assert!(!rig.is_closed(conn), "clients stay");
    configure(&mut rig, false);
    rig.join(0, "8/k2//");
}
