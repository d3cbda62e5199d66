//! Connections are closed when their tokens have expired, and not before.

use comet_core::limits::{TICK_MS, TOKEN_EXPIRED_MS};
use comet_core::{CloseReason, ConnId, Identity, Limits, Logic, Message, Transport};
use comet_proto::op;

use crate::rig::{Rig, UPGRADE, frame, masked};

fn rig(shards: u16) -> Rig {
    let limits = Limits { heartbeat_ms: u32::MAX, ..Limits::default() };
    Rig::with_logic(shards, limits, Logic::Remote { renew_ms: (60_000, 60_000) })
}

/// Logic answers the token of `conn`, which expires in `millis`.
fn admit(rig: &mut Rig, conn: ConnId, key: &str, millis: Option<u64>) {
    let identity = Identity { user: 7, key: Some(key.into()), ..Identity::default() };
    let answer = Ok(Identity { expires_in_ms: millis, ..identity });
    rig.send(conn.shard, Message::Identified { conn, answer });
}

/// A TCP client whose token expires in `millis`.
fn join(rig: &mut Rig, key: &str, millis: Option<u64>) -> ConnId {
    let conn = rig.connect(0, Transport::Tcp);
    rig.feed(conn, &frame(op::AUTH, 1, b""));
    admit(rig, conn, key, millis);
    assert_eq!(rig.take(conn), frame(op::AUTH_REPLY, 1, b""));
    conn
}

/// The time to wait in the close notice at the start of `bytes`.
fn hint(bytes: &[u8]) -> u32 {
    let text = std::str::from_utf8(&bytes[16..]).expect("a sentence");
    let hint = text.strip_prefix("token_expired; retry_after_ms=").expect("a time to wait");
    hint.parse().expect("a number")
}

#[test]
fn a_connection_lasts_as_long_as_its_token() {
    let mut rig = rig(2);
    let ends = join(&mut rig, "ends", Some(90_000));
    let stays = join(&mut rig, "stays", None);
    let far = join(&mut rig, "far", Some(u64::MAX));
    rig.push_keys(&["ends"], 5, b"last");
    rig.take(ends);
    rig.pass(89_999);
    assert!(!rig.is_closed(ends));
    rig.pass(TICK_MS);
    assert_eq!(rig.reason(ends), CloseReason::TokenExpired);
    assert!(TOKEN_EXPIRED_MS.contains(&hint(&rig.take(ends))));
    assert_eq!(rig.push_keys(&["ends"], 5, b"late").absent, 1);
    rig.pass(2_000_000_000);
    assert!(!rig.is_closed(stays) && !rig.is_closed(far));
    assert_eq!(rig.shards[0].counters().closed[CloseReason::TokenExpired as usize], 1);
}

#[test]
fn a_websocket_is_closed_as_unauthorized() {
    let mut rig = rig(1);
    let conn = rig.connect(0, Transport::WebSocket);
    rig.feed(conn, &[UPGRADE, &masked(0x82, &frame(op::AUTH, 1, b""))].concat());
    admit(&mut rig, conn, "k", Some(1_000));
    rig.take(conn);
    rig.pass(1_000);
    let sent = rig.take(conn);
    let close = sent.windows(4).position(|bytes| bytes[0] == 0x88 && bytes[2..] == [0x0b, 0xb8]);
    let text = sent[close.expect("close code 3000") + 4..].to_vec();
    assert!(text.starts_with(b"token_expired; retry_after_ms="), "{}", text.escape_ascii());
}

/// The token's time goes on while a core is held up, unlike a deadline of the peer.
#[test]
fn a_stall_prolongs_no_token() {
    let mut rig = rig(1);
    let conn = join(&mut rig, "k", Some(5_000));
    rig.stall(60_000);
    rig.end_turn();
    assert_eq!(rig.reason(conn), CloseReason::TokenExpired);
}

#[test]
fn a_token_that_has_expired_already_ends_at_once() {
    let mut rig = rig(1);
    rig.pass(3_600_000);
    let conn = join(&mut rig, "k", Some(0));
    rig.pass(TICK_MS);
    assert_eq!(rig.reason(conn), CloseReason::TokenExpired);
}

/// This holds for a connection that still waits for its homes.
#[test]
fn a_token_may_expire_while_its_connection_registers() {
    let mut rig = rig(2);
    rig.held.extend([(0, 1), (1, 0)]);
    let conn = rig.connect(0, Transport::Tcp);
    rig.feed(conn, &frame(op::AUTH, 1, b""));
    let key = crate::rig::key_at(1);
    admit(&mut rig, conn, &key, Some(100));
    rig.pass(100);
    assert_eq!(rig.reason(conn), CloseReason::TokenExpired);
    rig.held.clear();
    rig.run();
    assert_eq!(rig.push_keys(&[&key], 5, b"").absent, 1);
}

#[test]
fn the_next_connection_of_a_slot_has_a_time_of_its_own() {
    let mut rig = rig(1);
    let first = join(&mut rig, "a", Some(10_000));
    rig.hang_up(first);
    let second = join(&mut rig, "b", None);
    assert_eq!(second.slot, first.slot);
    rig.pass(20_000);
    assert!(!rig.is_closed(second));
    rig.hang_up(second);
    let third = join(&mut rig, "c", Some(10_000));
    assert_eq!(third.slot, first.slot);
    rig.pass(9_999);
    assert!(!rig.is_closed(third));
    rig.pass(TICK_MS);
    assert_eq!(rig.reason(third), CloseReason::TokenExpired);
}
