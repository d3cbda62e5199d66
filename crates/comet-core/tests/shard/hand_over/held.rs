//! Input that arrives while a shard is about to be handed over is held. The process that goes on with the clients reads it.

use comet_core::{
    CloseReason, ConnId, Hangup, Identity, LeftBehind, Limits, Logic, Message, Report, Transport,
};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, frame_2, masked};

/// Live clients of remote logic, over both transports.
fn clients(rig: &mut Rig) -> [ConnId; 2] {
    [(Transport::Tcp, "7/k//"), (Transport::WebSocket, "8/l//")].map(|(transport, token)| {
        let conn = rig.connect(0, transport);
        let auth = frame(op::AUTH, 1, token.as_bytes());
        match transport {
            Transport::WebSocket => {
                rig.feed(conn, UPGRADE);
                rig.feed(conn, &masked(0x82, &auth));
            }
            _ => rig.feed(conn, &auth),
        }
        rig.admit(conn);
        rig.take(conn);
        conn
    })
}

/// The connections and bodies of the client messages that were reported to logic.
fn received(rig: &mut Rig) -> Vec<(ConnId, Vec<u8>)> {
    let received = rig.take_reports().into_iter().filter_map(|report| match report {
        Report::Receive { conn, body, .. } => Some((conn, body.to_vec())),
        _ => None,
    });
    received.collect()
}

fn rig() -> Rig {
    Rig::with_logic(1, Limits::default(), Logic::Remote { renew_ms: (1_000_000, 1_000_000) })
}

/// Sends a message and the beginning of the next one at once. Returns the missing end.
fn feed(rig: &mut Rig, conns: [ConnId; 2]) -> [Vec<u8>; 2] {
    let sent = [frame(op::SEND, 1, b"one"), frame(op::SEND, 2, b"two")];
    let messages = [sent.clone(), sent.map(|frame| masked(0x82, &frame))];
    let mut rest = [vec![], vec![]];
    for ((conn, [one, two]), rest) in conns.into_iter().zip(messages).zip(&mut rest) {
        let mut bytes = [one, two].concat();
        *rest = bytes.split_off(bytes.len() - 1);
        rig.feed(conn, &bytes);
    }
    rest
}

#[test]
fn held_input_is_read_by_the_next_process() {
    let mut rig = rig();
    let conns = clients(&mut rig);
    rig.hold_input();
    let rest = feed(&mut rig, conns);
    assert_eq!(received(&mut rig), []);
    let renamed = rig.upgrade(1);
    let conns = conns.map(|conn| *renamed.get(&conn).expect("nobody stays behind"));
    assert_eq!(received(&mut rig), [], "not before it may");
    rig.release_input();
    rig.run();
    assert_eq!(received(&mut rig), conns.map(|conn| (conn, b"one".to_vec())));
    for (conn, rest) in conns.into_iter().zip(rest) {
        rig.send(conn.shard, Message::Receipt { conn, outcome: Ok(()) });
        rig.feed(conn, &rest);
        assert_eq!(received(&mut rig), [(conn, b"two".to_vec())]);
    }
}

#[test]
fn held_input_is_read_by_the_former_process_if_the_hand_over_fails() {
    let mut rig = rig();
    let conns = clients(&mut rig);
    rig.hold_input();
    feed(&mut rig, conns);
    rig.release_input();
    rig.run();
    assert_eq!(received(&mut rig), conns.map(|conn| (conn, b"one".to_vec())));
}

/// The server is late, not the client.
#[test]
fn a_heartbeat_that_is_held_is_in_time() {
    let limits = Limits { heartbeat_ms: 1_000, ..Limits::default() };
    let mut rig = Rig::with_logic(1, limits, Logic::Embedded);
    let conn = rig.join(0, "7/k//");
    rig.take(conn);
    rig.pass(900);
    rig.hold_input();
    rig.feed(conn, &frame(op::HEARTBEAT, 2, b""));
    rig.pass(300);
    rig.release_input();
    rig.run();
    rig.pass(900);
    assert!(!rig.is_closed(conn));
    assert_eq!(rig.take(conn).len(), frame(op::HEARTBEAT_REPLY, 2, &[0; 4]).len());
}

/// This holds for any time in which input is held, and for either process.
#[test]
fn a_heartbeat_that_was_held_is_read_before_its_deadline_is_looked_at() {
    for (held_ms, is_handed_over) in
        [(200, false), (260, false), (3_500, false), (300, true), (3_500, true)]
    {
        let limits = Limits { heartbeat_ms: 1_000, ..Limits::default() };
        let mut rig = Rig::with_logic(1, limits, Logic::Embedded);
        let conn = rig.join(0, "7/k//");
        rig.take(conn);
        rig.pass(900);
        rig.hold_input();
        rig.feed(conn, &frame(op::HEARTBEAT, 2, b""));
        rig.pass(held_ms);
        let conn = if is_handed_over { rig.upgrade(1)[&conn] } else { conn };
        rig.release_input();
        rig.pass(1);
        assert!(!rig.is_closed(conn), "held for {held_ms} ms, handed over: {is_handed_over}");
        let reply = frame(op::HEARTBEAT_REPLY, 2, &[0; 4]);
        assert_eq!(rig.take(conn).len(), reply.len());
        rig.pass(1_500);
        assert_eq!(rig.reason(conn), CloseReason::HeartbeatTimeout, "who sends no more is closed");
    }
}

/// The token expires meanwhile.
#[test]
fn a_renewal_that_is_held_is_in_time() {
    let mut rig = rig();
    let conn = rig.connect(0, Transport::Tcp);
    let identity = || Identity { user: 7, key: Some("k".into()), ..Identity::default() };
    let answer = |rig: &mut Rig, conn: ConnId, millis| {
        let answer = Ok(Identity { expires_in_ms: Some(millis), ..identity() });
        rig.send(conn.shard, Message::Identified { conn, answer });
    };
    rig.feed(conn, &frame_2(op::AUTH, 1, b"first"));
    answer(&mut rig, conn, 1_000);
    rig.hold_input();
    rig.feed(conn, &frame_2(op::AUTH, 2, b"second"));
    rig.pass(1_500);
    let conn = rig.upgrade(1)[&conn];
    rig.release_input();
    rig.pass(1);
    answer(&mut rig, conn, 60_000);
    rig.pass(10_000);
    assert!(!rig.is_closed(conn));
}

/// The held input may contain a message or a goodbye.
#[test]
fn held_input_is_read_when_its_client_leaves() {
    let mut rig = rig();
    let conns = clients(&mut rig);
    rig.hold_input();
    for conn in conns {
        let message = frame(op::SEND, 1, b"last");
        match conn == conns[0] {
            true => rig.feed(conn, &message),
            false => rig.feed(conn, &masked(0x82, &message)),
        }
        assert_eq!(received(&mut rig), []);
        rig.hang_up(conn);
        assert_eq!(received(&mut rig), [(conn, b"last".to_vec())]);
    }
}

/// Input held by the last hand-over still waits to be read when the next one begins.
#[test]
fn what_waits_for_its_turn_is_read_where_the_client_has_left_before_the_hand_over() {
    let mut rig = rig();
    let conns = clients(&mut rig);
    rig.hold_input();
    rig.feed(conns[0], &frame(op::SEND, 1, b"last"));
    rig.feed(conns[1], &masked(0x82, &frame(op::SEND, 1, b"last")));
    rig.release_input();
    for conn in conns {
        rig.shards[0].handle_hangup(conn, Hangup::Eof);
        assert!(!rig.is_closed(conn), "what it sent is unread");
    }
    rig.hold_input();
    let waits = conns.map(|conn| (conn, LeftBehind::AwaitsAnswer));
    assert!(rig.shards[0].left_behind().eq(waits), "closed before they are left behind");
    rig.run();
    assert_eq!(conns.map(|conn| rig.reason(conn)), [CloseReason::PeerClosed; 2]);
    assert_eq!(received(&mut rig), conns.map(|conn| (conn, b"last".to_vec())));
}

/// A hand-over waits for answers of logic. The messages behind the one that logic has wait for the same answer.
#[test]
fn messages_behind_one_that_logic_has_are_read_where_the_client_has_left() {
    let mut rig = rig();
    let [conn, _] = clients(&mut rig);
    let sent = [&b"one"[..], b"two", b"three"].map(|body| frame(op::SEND, 1, body)).concat();
    rig.feed(conn, &sent);
    rig.hold_input();
    rig.hang_up(conn);
    for body in ["one", "two"] {
        assert_eq!(received(&mut rig), [(conn, body.into())]);
        assert!(!rig.is_closed(conn), "{body}");
        rig.send(conn.shard, Message::Receipt { conn, outcome: Ok(()) });
    }
    assert_eq!(received(&mut rig), [(conn, b"three".to_vec())]);
    assert_eq!(rig.reason(conn), CloseReason::PeerClosed);
}

/// A client that exceeds the bound of held input is not at fault: the server does not read it.
#[test]
fn a_client_that_sends_more_than_is_held_goes_on() {
    let mut rig = Rig::new(1, Limits::default());
    let conn = rig.join(0, "7/k//");
    rig.hold_input();
    for _ in 0..200 {
        rig.feed(conn, &frame(op::SEND, 1, &[0; 1_000]));
    }
    assert!(!rig.is_closed(conn));
    rig.release_input();
    rig.run();
    assert!(!rig.is_closed(conn));
}
