//! The answer to every operation, byte by byte, on both transports.

use comet_core::{CloseReason, ConnId, Limits, Transport};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, masked, plain, room_at};

/// Sends `requests` as they are on TCP, in one piece and byte by byte, and as masked messages on
/// WebSocket; what comes back is `replies` each time.
fn check(token: &str, requests: &[Vec<u8>], replies: &[Vec<u8>]) {
    for pieces in [usize::MAX, 1] {
        let mut rig = Rig::new(2, Limits::default());
        let conn = rig.join(0, token);
        let bytes = requests.concat();
        for piece in bytes.chunks(pieces.min(bytes.len())) {
            rig.feed(conn, piece);
        }
        assert_eq!(rig.take(conn), replies.concat(), "over TCP in pieces of {pieces}");
    }
    let mut rig = Rig::new(2, Limits::default());
    let conn = open(&mut rig);
    let auth = rig.ask(conn, &masked(0x82, &frame(op::AUTH, 1, token.as_bytes())));
    assert_eq!(auth, plain(0x82, &frame(op::AUTH_REPLY, 1, b"")));
    for request in requests {
        rig.feed(conn, &masked(0x82, request));
    }
    let messages: Vec<_> = replies.iter().map(|reply| plain(0x82, reply)).collect();
    assert_eq!(rig.take(conn), messages.concat(), "over WebSocket");
}

fn open(rig: &mut Rig) -> ConnId {
    let conn = rig.connect(0, Transport::WebSocket);
    let response = rig.ask(conn, UPGRADE);
    assert_eq!(
        String::from_utf8_lossy(&response),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    conn
}

#[test]
fn each_operation_has_its_reply() {
    check("7/k//", &[frame(2, 5, b"")], &[frame(3, 5, &[0, 0, 0, 0])]);
    check("7/k/r/", &[frame(2, 5, b"ignored")], &[frame(3, 5, &[0, 0, 0, 1])]);
    check("7/k//", &[frame(4, -6, b"to logic")], &[frame(4, -6, b"")]);
    check("7/k//", &[frame(12, 7, b"r")], &[frame(13, 7, b"r")]);
    check("7/k/r/", &[frame(12, 7, b"r")], &[frame(13, 7, b"r")]);
    check("7/k/r/", &[frame(12, 7, b"")], &[frame(13, 7, b"")]);
    check("7/k//", &[frame(14, 8, b"1000,1001")], &[frame(15, 8, b"1000,1001")]);
    check("7/k//", &[frame(14, 8, b"")], &[frame(15, 8, b"")]);
    check("7/k//5", &[frame(16, 9, b"5, 1000")], &[frame(17, 9, b"5, 1000")]);
    // Operations of goim that mean nothing from a client, and numbers without a meaning.
    for operation in [0, 1, 3, 5, 10, 11, 18, 4711, i32::MIN, i32::MAX] {
        check("7/k//", &[frame(operation, 1, b"x")], &[frame(operation, 1, b"")]);
    }
    // A second token is a message like any other.
    check("7/k//", &[frame(7, 2, b"8/k2//")], &[frame(7, 2, b"")]);
}

/// As in goim, where a reply is the request with another operation and body.
#[test]
fn a_reply_has_the_version_of_its_request() {
    let versioned = |mut frame: Vec<u8>, version: u16| {
        frame[6..8].copy_from_slice(&version.to_be_bytes());
        frame
    };
    for version in [0, 7, u16::MAX] {
        let mut rig = Rig::new(2, Limits::default());
        let room = room_at(1);
        let conn = rig.connect(0, Transport::Tcp);
        let token = format!("7/k/{room}/");
        for (asked, answer) in [
            (frame(7, 1, token.as_bytes()), frame(8, 1, b"")),
            (frame(2, 2, b""), frame(3, 2, &[0, 0, 0, 1])),
            (frame(12, 3, b"other"), frame(13, 3, b"other")),
            (frame(12, 4, room.as_bytes()), frame(13, 4, room.as_bytes())),
            (frame(14, 5, b"5"), frame(15, 5, b"5")),
            (frame(4, 6, b"x"), frame(4, 6, b"")),
        ] {
            assert_eq!(rig.ask(conn, &versioned(asked, version)), versioned(answer, version));
        }
    }
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let requests = [
        frame(12, 1, b"r"),
        frame(2, 2, b""),
        frame(12, 3, b""),
        frame(2, 4, b""),
        frame(4, 5, b"x"),
    ];
    let replies = [
        frame(13, 1, b"r"),
        frame(3, 2, &[0, 0, 0, 1]),
        frame(13, 3, b""),
        frame(3, 4, &[0, 0, 0, 0]),
        frame(4, 5, b""),
    ];
    check("7/k//", &requests, &replies);
}

#[test]
fn frames_before_the_token_are_ignored() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.connect(0, Transport::Tcp);
    let early = [frame(2, 1, b""), frame(9, 2, b""), frame(12, 3, b"r"), frame(4711, 4, b"x")];
    assert_eq!(rig.ask(conn, &early.concat()), b"");
    assert_eq!(rig.shards[0].counters().frames_ignored, 4);
    assert_eq!(rig.ask(conn, &frame(7, 5, b"7/k//")), frame(8, 5, b""));
}

#[test]
fn a_ping_is_answered() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = open(&mut rig);
    assert_eq!(rig.ask(conn, &masked(0x89, b"are you there")), plain(0x8a, b"are you there"));
    assert_eq!(rig.ask(conn, &masked(0x8a, b"unasked")), b"");
}

#[test]
fn a_refused_token_is_answered_with_the_reason() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.connect(0, Transport::Tcp);
    assert_eq!(rig.ask(conn, &frame(7, 1, b"no")), frame(6, 0, b"no such token"));
    assert_eq!(rig.reason(conn), CloseReason::AuthRefused);
    for (token, what) in [
        (format!("7/{}//", "k".repeat(257)), "key of 257 bytes; at most 256 are taken"),
        (format!("7/k/{}/", "r".repeat(257)), "room of 257 bytes; at most 256 are taken"),
        (format!("7/k//{}5", "5,".repeat(64)), "65 accepted operations; at most 64 are taken"),
    ] {
        let conn = rig.connect(0, Transport::Tcp);
        assert_eq!(rig.ask(conn, &frame(7, 1, token.as_bytes())), frame(6, 0, what.as_bytes()));
    }
    assert_eq!(rig.shards[0].counters().authenticated, 0);
}

#[test]
fn users_without_a_key_get_one_with_their_session_number() {
    let mut rig = Rig::new(2, Limits::default());
    rig.join(0, "42///");
    rig.join(1, "42///");
    rig.join(0, "///");
    let keys: Vec<String> = rig
        .shards
        .iter()
        .flat_map(|shard| shard.live_conns().map(|live| live.key.to_owned()).collect::<Vec<_>>())
        .collect();
    assert_eq!(keys, ["42_1", "0_1", "42_2"]);
}
