//! Deadlines: never early, and late by two ticks at most.

use comet_core::limits::TICK_MS;
use comet_core::{Budget, CloseReason, ConnId, Hangup, Limits, Millis, SocketShutdown, Transport};

use crate::rig::{Rig, UPGRADE, frame};

fn limits() -> Limits {
    Limits {
        handshake_ms: 1_000,
        heartbeat_ms: 3_000,
        write_ms: 700,
        linger_ms: 400,
        ..Limits::default()
    }
}

/// The connection is open until `limit_ms` after `since`; two ticks later it is closed for `reason`.
fn check(rig: &mut Rig, conn: ConnId, since: u64, limit_ms: u32, reason: CloseReason) {
    let limit = since + u64::from(limit_ms);
    rig.pass(limit - 1 - rig.now());
    assert!(!rig.is_closed(conn), "{reason:?} is early");
    rig.pass(2 * TICK_MS + 1);
    assert_eq!(rig.reason(conn), reason);
}

#[test]
fn the_handshake_timeout_counts_from_accept() {
    for offset in [0, 1, 49, 50, 77] {
        for said in [&b""[..], UPGRADE, &UPGRADE[..20]] {
            let mut rig = Rig::new(1, limits());
            rig.pass(offset);
            let conn = rig.connect(0, Transport::WebSocket);
            rig.pass(300);
            rig.feed(conn, said);
            check(&mut rig, conn, offset, 1_000, CloseReason::HandshakeTimeout);
        }
        let mut rig = Rig::new(1, limits());
        rig.pass(offset);
        let conn = rig.connect(0, Transport::Tcp);
        rig.feed(conn, &frame(2, 1, b""));
        check(&mut rig, conn, offset, 1_000, CloseReason::HandshakeTimeout);
        assert_eq!(rig.take(conn), frame(6, 0, b"handshake_timeout"));
    }
}

#[test]
fn only_a_heartbeat_moves_the_heartbeat_deadline() {
    let mut rig = Rig::new(1, limits());
    let conn = rig.join(0, "7/k/r/");
    for _ in 0..3 {
        rig.pass(2_900);
        assert_eq!(rig.ask(conn, &frame(2, 1, b"")).len(), 20);
    }
    let since = rig.now();
    rig.pass(2_000);
    rig.ask(conn, &frame(4, 1, b"not a heartbeat"));
    check(&mut rig, conn, since, 3_000, CloseReason::HeartbeatTimeout);
    assert_eq!(rig.take(conn), frame(6, 0, b"heartbeat_timeout"));
    assert_eq!(rig.shards[0].keys().count(), 0);
}

/// A heartbeat that arrived before the deadline is read in the turn in which the deadline passes.
#[test]
fn an_unread_heartbeat_counts() {
    let mut rig = Rig::new(1, limits());
    let [speaks, silent, leaves] = ["7/a//", "7/b//", "7/c//"].map(|token| rig.join(0, token));
    rig.pass(2_900);
    let late = Millis(rig.now() + 200);
    let shard = &mut rig.shards[0];
    assert!(!shard.has_expired());
    shard.handle_time(late);
    assert!(shard.has_expired());
    shard.handle_recv(speaks, &frame(2, 1, b""));
    shard.handle_hangup(leaves, Hangup::Eof);
    shard.handle_gone(leaves);
    let newcomer = shard.handle_accept(Transport::Tcp).expect("there is room");
    assert_eq!(newcomer.slot, leaves.slot);
    shard.handle_deadlines(&mut Budget::slice());
    let closed: Vec<_> = std::iter::from_fn(|| shard.poll_closed())
        .map(|event| (event.conn, event.reason))
        .collect();
    let expected = [(leaves, CloseReason::PeerClosed), (silent, CloseReason::HeartbeatTimeout)];
    assert_eq!(closed, expected);
}

#[test]
fn a_send_without_progress_closes_despite_heartbeats() {
    for offset in [0, 1, 49] {
        let mut rig = Rig::new(1, limits());
        let conn = rig.join(0, "7/k/r/");
        rig.pass(offset);
        rig.allow(conn, Some(3));
        rig.push_room("r", 5, b"for the eyes of nobody");
        let since = rig.now();
        for _ in 0..3 {
            rig.pass(200);
            rig.feed(conn, &frame(2, 1, b""));
        }
        check(&mut rig, conn, since, 700, CloseReason::WriteTimeout);
        assert_eq!(rig.shut(conn), Some(SocketShutdown::Both));
        let counters = rig.shards[0].counters();
        assert_eq!((counters.sent, counters.lost, counters.waiting), (0, 1, 0));
    }
}

#[test]
fn a_send_with_slow_progress_goes_on() {
    let mut rig = Rig::new(1, limits());
    let conn = rig.join(0, "7/k/r/");
    rig.allow(conn, Some(0));
    rig.push_room("r", 5, b"slowly");
    for _ in 0..22 {
        rig.pass(600);
        rig.feed(conn, &frame(2, 1, b""));
        rig.take(conn);
        rig.allow(conn, Some(1));
    }
    assert!(!rig.is_closed(conn));
    assert_eq!(rig.shards[0].counters().sent, 1);
}

#[test]
fn an_unanswered_close_ends_at_the_linger_deadline() {
    let mut rig = Rig::new(1, limits());
    let conn = rig.join(0, "7/k/r/");
    rig.feed(conn, &frame(9, 1, b""));
    assert_eq!(rig.shut(conn), Some(SocketShutdown::Write));
    rig.pass(399);
    assert_eq!(rig.shut(conn), Some(SocketShutdown::Write));
    rig.pass(1 + 2 * TICK_MS);
    assert_eq!(rig.shut(conn), Some(SocketShutdown::Both));
}

#[test]
fn without_connections_nothing_is_due() {
    let mut rig = Rig::new(1, limits());
    assert_eq!(rig.shards[0].poll_timeout(), None);
    let conn = rig.join(0, "7/k/r/");
    assert!(rig.shards[0].poll_timeout().is_some());
    rig.hang_up(conn);
    rig.take(conn);
    rig.pass(1_000);
    assert_eq!(rig.shards[0].poll_timeout(), None);
}
