//! Stalled cores: peers that send in time are not closed, and silent ones are closed in the end.

use comet_core::limits::TICK_MS;
use comet_core::{CloseReason, ConnId, Limits, Logic, Transport};

use crate::rig::{Rig, UPGRADE, frame, masked};

fn limits() -> Limits {
    Limits { handshake_ms: 1_000, heartbeat_ms: 3_000, write_ms: 700, ..Limits::default() }
}

/// Input that arrived during a stall is read in the turns after it.
#[test]
fn peers_that_send_during_a_stall_are_not_closed_as_silent() {
    let mut rig = Rig::new(1, limits());
    let [beating, stuck] = ["7/a/r/", "7/b/r/"].map(|token| rig.join(0, token));
    let upgrading = rig.connect(0, Transport::WebSocket);
    rig.allow(stuck, Some(3));
    rig.push_room("r", 5, b"for both");
    rig.pass(TICK_MS);
    rig.stall(5_000);
    rig.end_turn();
    for conn in [beating, stuck, upgrading] {
        assert!(!rig.is_closed(conn), "{conn:?}");
    }
    // The client sends the next bytes only after it has read the answer.
    rig.feed(upgrading, UPGRADE);
    rig.pass(500);
    rig.feed(upgrading, &masked(0x82, &frame(7, 1, b"7/c//")));
    rig.allow(stuck, None);
    rig.pass(1_500);
    rig.feed(beating, &frame(2, 1, b""));
    rig.pass(1_300);
    assert!(!rig.is_closed(beating) && !rig.is_closed(upgrading));
    assert_eq!(rig.reason(stuck), CloseReason::HeartbeatTimeout);
    assert_eq!(rig.shards[0].counters().stalled_millis, 5_250 - TICK_MS);
}

/// Whether `conn` is postponed when its deadline has passed and there is a backlog.
fn is_postponed(rig: &mut Rig, conn: ConnId, millis: u64) -> bool {
    rig.stall(millis);
    let mut asked = Vec::new();
    rig.shards[0].postpone_overdue(|conn| {
        asked.push(conn);
        true
    });
    rig.end_turn();
    asked == [conn]
}

/// The driver has input of a peer that it has not passed on yet. Deadlines are postponed only for such peers, and only
/// for a bounded time.
#[test]
fn unread_input_puts_a_deadline_off_for_its_own_time() {
    let mut rig = Rig::new(1, limits());
    let late = rig.connect(0, Transport::Tcp);
    rig.pass(950);
    let in_time = rig.connect(0, Transport::Tcp);
    let mut times = 0;
    while is_postponed(&mut rig, late, if times == 0 { 50 } else { 250 }) {
        assert!(!rig.is_closed(late));
        times += 1;
    }
    assert_eq!(times, 4);
    assert_eq!(rig.reason(late), CloseReason::HandshakeTimeout);
    assert!(!rig.is_closed(in_time));
}

/// A write deadline is postponed in the same way, and the send goes on.
#[test]
fn a_send_that_can_go_on_is_not_late() {
    let mut rig = Rig::new(1, limits());
    let conn = rig.join(0, "7/a/r/");
    rig.allow(conn, Some(3));
    rig.push_room("r", 5, b"slowly");
    rig.pass(700);
    assert!(is_postponed(&mut rig, conn, 100));
    rig.allow(conn, None);
    rig.pass(2_000);
    assert!(!rig.is_closed(conn));
}

/// The driver reports progress of a send that has not completed. The deadline from then on counts active time as well.
#[test]
fn progress_after_a_stall_gives_no_more_than_the_write_timeout() {
    let mut rig = Rig::new(1, limits());
    let conn = rig.join(0, "7/a/r/");
    rig.allow(conn, Some(3));
    rig.push_room("r", 5, b"slowly");
    rig.pass(TICK_MS);
    rig.stall(2_000);
    rig.end_turn();
    rig.pass(300);
    rig.shards[0].handle_send_progress(conn);
    rig.pass(699);
    assert!(!rig.is_closed(conn));
    rig.pass(2 * TICK_MS + 1);
    assert_eq!(rig.reason(conn), CloseReason::WriteTimeout);
}

/// Logic has the token, so the client waits for the server.
#[test]
fn a_client_that_waits_for_logic_has_its_deadline_extended_once() {
    let mut rig = Rig::with_logic(1, limits(), Logic::Remote { renew_ms: (100, 100) });
    let [answered, forgotten] = [b"7/a//", b"7/b//"].map(|token| {
        let conn = rig.connect(0, Transport::Tcp);
        rig.feed(conn, &frame(7, 1, token));
        conn
    });
    rig.pass(1_800);
    rig.admit(answered);
    rig.pass(800);
    assert!(!rig.is_closed(answered));
    assert_eq!(rig.reason(forgotten), CloseReason::HandshakeTimeout);
    // The client has to read in the meantime.
    rig.allow(answered, Some(0));
    rig.push_keys(&["a"], 5, b"x");
    rig.feed(answered, &frame(4, 1, b"for logic"));
    rig.pass(850);
    assert_eq!(rig.reason(answered), CloseReason::WriteTimeout);
}
