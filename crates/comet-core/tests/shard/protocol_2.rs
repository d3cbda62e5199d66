//! Protocol 2: a client that asks for it learns that the server speaks it. For other clients nothing changes.

use comet_core::{CloseReason, Denied, Identity, Limits, Logic, Message, Transport};
use comet_proto::{AuthReply, JoinReply, RoomHandle, decode, op};

use crate::rig::{Rig, UPGRADE, frame, frame_2, masked, plain};

/// The reply to an op 7 with sequence 1 that asked for protocol 2.
fn welcome(heartbeat_ms: u32, expires_in_ms: Option<u32>) -> Vec<u8> {
    let reply = AuthReply { not_renewed: None, heartbeat_ms, expires_in_ms, kept: None };
    frame_2(op::AUTH_REPLY, 1, &reply.encode())
}

#[test]
fn the_auth_reply_of_protocol_2_has_the_heartbeat_interval_and_the_room() {
    let mut rig = Rig::new(2, Limits { heartbeat_ms: 300_000, ..Limits::default() });
    let room = frame_2(op::JOIN_REPLY, 0, &JoinReply::primary(RoomHandle(0), b"r").encode());
    // The room of the last one is known to its shard already.
    for (shard, token) in [(0, "7/a//"), (0, "7/b/r/"), (1, "7/c/r/"), (1, "7/d/r/")] {
        let tcp = rig.connect(shard, Transport::Tcp);
        let mut expected = welcome(300_000, None);
        if token.contains('r') {
            expected.extend(&room);
        }
        assert_eq!(rig.ask(tcp, &frame_2(op::AUTH, 1, token.as_bytes())), expected, "{token}");
    }
    let websocket = rig.connect(0, Transport::WebSocket);
    rig.ask(websocket, UPGRADE);
    let auth = masked(0x82, &frame_2(op::AUTH, 1, b"7/e/r/"));
    let expected = [plain(0x82, &welcome(300_000, None)), plain(0x82, &room)].concat();
    assert_eq!(rig.ask(websocket, &auth), expected);
}

#[test]
fn the_auth_reply_has_the_heartbeat_and_expiry_times_that_logic_gave() {
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

/// An operation 8 from the client is a message for logic in both protocols.
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
    // Two frames about rooms come before it.
    assert_eq!(content(&converse(2))[6], (8, 5, Vec::new()));
}

/// The bytes after the auth reply, on a connection that is closed because it breaks the rules.
fn end(rig: &mut Rig, transport: Transport, auth: &[u8], last: &[u8]) -> Vec<u8> {
    let conn = rig.connect(0, transport);
    let wrap = |bytes: &[u8]| match transport {
        Transport::Tcp => bytes.to_vec(),
        Transport::WebSocket => masked(0x82, bytes),
        Transport::EventStream => unreachable!("clients that send frames"),
    };
    if transport == Transport::WebSocket {
        rig.ask(conn, UPGRADE);
    }
    rig.ask(conn, &wrap(auth));
    let end = rig.ask(conn, &wrap(last));
    assert!(rig.is_closed(conn));
    end
}

#[test]
fn only_protocol_2_gets_close_notices_unless_they_are_configured() {
    let sentence = b"operation 9 is the server's";
    let goodbye = frame(op::DISCONNECT_REPLY, 0, sentence);
    let close = plain(0x88, &[b"\x03\xearaw_from_client: ", &sentence[..]].concat());
    let last = frame(op::RAW, 2, b"");
    let by_1 = frame(op::AUTH, 1, b"7/k//");
    let by_2 = frame_2(op::AUTH, 1, b"7/k//");
    for (mut rig, auth, has_goodbye) in [
        (Rig::without_goodbye(1), &by_1, false),
        (Rig::without_goodbye(1), &by_2, true),
        (Rig::new(1, Limits::default()), &by_1, true),
    ] {
        let (mut on_tcp, mut on_websocket) = (Vec::new(), Vec::new());
        if has_goodbye {
            on_tcp.extend(&goodbye);
            on_websocket.extend(plain(0x82, &goodbye));
        }
        on_websocket.extend(&close);
        assert_eq!(end(&mut rig, Transport::Tcp, auth, &last), on_tcp);
        assert_eq!(end(&mut rig, Transport::WebSocket, auth, &last), on_websocket);
    }
}

/// A client whose token is refused gets the close notice too, though its protocol is known only from that token.
#[test]
fn a_refused_client_of_protocol_2_gets_a_reply_of_protocol_2() {
    let mut rig = Rig::without_goodbye(1);
    for (auth, told) in [
        (frame(op::AUTH, 1, b"no"), Vec::new()),
        (frame_2(op::AUTH, 1, b"no"), frame(op::DISCONNECT_REPLY, 0, b"no such token")),
    ] {
        let conn = rig.connect(0, Transport::Tcp);
        assert_eq!(rig.ask(conn, &auth), told);
        assert!(rig.is_closed(conn));
    }
}

/// The text has 123 bytes at most: the detail is cut, between characters, and the time to wait is whole.
#[test]
fn the_retry_after_in_a_close_frame_is_never_cut() {
    let logic = Logic::Remote { renew_ms: (60_000, 60_000) };
    let mut rig = Rig::with_logic(1, Limits::default(), logic);
    for (reason, label) in [
        (CloseReason::AuthRefused, "auth_refused"),
        (CloseReason::LogicUnavailable, "logic_unavailable"),
    ] {
        for retry_after_ms in [None, Some(0), Some(u32::MAX)] {
            for sentence in [String::new(), "why".to_owned(), "x".repeat(300), "ü".repeat(300)] {
                let conn = rig.connect(0, Transport::WebSocket);
                rig.feed(conn, &[UPGRADE, &masked(0x82, &frame(op::AUTH, 1, b""))].concat());
                rig.take(conn);
                let denied = Denied { reason, sentence: sentence.clone().into(), retry_after_ms };
                rig.send(conn.shard, Message::Identified { conn, answer: Err(denied) });
                let sent = rig.take(conn);
                let at = sent
                    .windows(label.len() + 2)
                    .rposition(|bytes| bytes[2..] == *label.as_bytes());
                let payload = &sent[at.expect("a close frame")..];
                assert!(
                    sent[sent.len() - payload.len() - 1] as usize == payload.len(),
                    "125 bytes at most"
                );
                let text = std::str::from_utf8(&payload[2..]).expect("whole characters");
                let hint = retry_after_ms.map(|millis| format!("; retry_after_ms={millis}"));
                let detail = text
                    .strip_prefix(label)
                    .and_then(|rest| rest.strip_suffix(&*hint.unwrap_or_default()));
                let detail = detail.unwrap_or_else(|| panic!("{text}"));
                let said = detail.strip_prefix(": ").unwrap_or(detail);
                assert!(
                    sentence.starts_with(said) && said.is_empty() == sentence.is_empty(),
                    "{text}"
                );
                assert!(text.len() >= 121 || said == sentence, "{text}");
            }
        }
    }
}
