//! Protocol 2: who asks for it is told that the server speaks it. For everybody else nothing changes.

use comet_core::{Identity, Limits, Logic, Message, Transport};
use comet_proto::{AuthReply, decode, op};

use crate::rig::{Rig, UPGRADE, frame, frame_2, masked, plain};

/// The reply to an op 7 with sequence 1 that asked for protocol 2.
fn welcome(heartbeat_ms: u32, expires_in_ms: Option<u32>) -> Vec<u8> {
    frame_2(op::AUTH_REPLY, 1, &AuthReply { heartbeat_ms, expires_in_ms }.encode())
}

#[test]
fn the_reply_to_a_token_says_what_the_client_may_rely_on() {
    let mut rig = Rig::new(2, Limits { heartbeat_ms: 300_000, ..Limits::default() });
    // The room of the last one is known to its shard already.
    for (shard, token) in [(0, "7/a//"), (0, "7/b/r/"), (1, "7/c/r/"), (1, "7/d/r/")] {
        let tcp = rig.connect(shard, Transport::Tcp);
        let expected = welcome(300_000, None);
        assert_eq!(rig.ask(tcp, &frame_2(op::AUTH, 1, token.as_bytes())), expected, "{token}");
    }
    let websocket = rig.connect(0, Transport::WebSocket);
    rig.ask(websocket, UPGRADE);
    let auth = masked(0x82, &frame_2(op::AUTH, 1, b"7/e/r/"));
    assert_eq!(rig.ask(websocket, &auth), plain(0x82, &welcome(300_000, None)));
}

#[test]
fn the_reply_names_the_times_that_logic_gave() {
    let logic = Logic::Remote { renew_ms: (60_000, 60_000) };
    let mut rig = Rig::with_logic(1, Limits::default(), logic);
    for (expires_in_ms, said) in [
        (None, None),
        (Some(90_000), Some(90_000)),
        (Some(0), Some(1)),
        (Some(u64::MAX), Some(u32::MAX)),
    ] {
        let conn = rig.connect(0, Transport::Tcp);
        rig.feed(conn, &frame_2(op::AUTH, 1, b""));
        let identity = Identity { heartbeat_ms: Some(4_000), expires_in_ms, ..Identity::default() };
        rig.send(conn.shard, Message::Identified { conn, answer: Ok(identity) });
        assert_eq!(rig.take(conn), welcome(4_000, said), "{expires_in_ms:?}");
    }
}

/// Operation, sequence and body of each frame.
fn content(mut bytes: &[u8]) -> Vec<(i32, i32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some((frame, consumed)) = decode(bytes, 4096).unwrap() {
        frames.push((frame.operation, frame.sequence, frame.body.to_vec()));
        bytes = &bytes[consumed..];
    }
    frames
}

/// Also an operation 8 of the client's own, which is a message for logic in both protocols.
#[test]
fn any_other_version_is_protocol_1() {
    let requests = [(2, 2, &b""[..]), (12, 3, b"q"), (14, 4, b"5"), (8, 5, b"m"), (7, 6, b"t")];
    let converse = |version: u16| {
        let mut rig = Rig::new(1, Limits::default());
        let conn = rig.connect(0, Transport::Tcp);
        for (operation, sequence, body) in [(7, 1, &b"7/k/r/"[..])].iter().chain(&requests) {
            let mut request = frame(*operation, *sequence, body);
            request[6..8].copy_from_slice(&version.to_be_bytes());
            rig.feed(conn, &request);
        }
        rig.take(conn)
    };
    let expected = content(&converse(1));
    assert_eq!(expected[0], (8, 1, Vec::new()));
    assert_eq!(expected.len(), requests.len() + 1);
    for version in [0, 3, 0x0102, 0x0200, u16::MAX] {
        assert_eq!(content(&converse(version)), expected, "{version}");
    }
    assert_eq!(content(&converse(2))[4], (8, 5, Vec::new()));
}
