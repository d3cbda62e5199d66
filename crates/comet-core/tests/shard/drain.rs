//! The paced drain.

use comet_core::limits::GATHERED_FIRST_MS;
use comet_core::{
    Budget, CloseReason, CoalesceRule, ConnId, Limits, Message, Millis, Report, Shard, ShardId,
    Transport,
};

use crate::rig::{Rig, frame};

fn drain(over_ms: u32, retry_after_ms: u32) -> Message {
    Message::Drain { over_ms, retry_after_ms }
}

fn closed(rig: &Rig) -> u64 {
    rig.shards.iter().map(|shard| shard.counters().closed[CloseReason::Draining as usize]).sum()
}

fn drained(rig: &Rig) -> usize {
    rig.reports.iter().filter(|report| matches!(report, Report::Drained { .. })).count()
}

#[test]
fn close_notices_are_spread_evenly_over_all_connections() {
    let mut rig = Rig::new(1, Limits::default());
    let mut conns: Vec<ConnId> = (0..70).map(|at| rig.join(0, &format!("/k{at}/r/"))).collect();
    conns.extend((0..30).map(|_| rig.connect(0, Transport::Tcp)));
    rig.pass(77);
    rig.send(ShardId(0), drain(2_000, 0));
    assert_eq!(rig.shards[0].handle_accept(Transport::Tcp), None);
    assert_eq!(closed(&rig), 0);
    for tenth in 1..20 {
        rig.pass(100);
        let due = tenth * 5;
        assert!((due - 1..=due).contains(&closed(&rig)), "{} after {tenth}", closed(&rig));
    }
    // Connections that are left still get pushes.
    assert!(rig.push_room("r", 5, b"").matched <= 5);
    rig.pass(110);
    assert_eq!(closed(&rig), 100);
    assert_eq!(drained(&rig), 0);
    for conn in conns {
        assert!(rig.take(conn).ends_with(&frame(6, 0, b"draining")));
        rig.hang_up(conn);
    }
    assert_eq!(drained(&rig), 1);
    rig.pass(500);
    assert_eq!(rig.shards[0].poll_timeout(), None);
}

#[test]
fn a_drain_ends_with_the_last_connection() {
    let mut rig = Rig::new(1, Limits::default());
    let conns = [0, 1, 2].map(|at| rig.join(0, &format!("/k{at}//")));
    rig.send(ShardId(0), drain(60_000, 0));
    for conn in conns {
        rig.hang_up(conn);
        rig.take(conn);
    }
    rig.pass(20);
    assert_eq!((closed(&rig), drained(&rig)), (0, 1));
}

#[test]
fn a_second_drain_replaces_the_first() {
    let mut rig = Rig::new(1, Limits::default());
    for at in 0..10 {
        rig.join(0, &format!("/k{at}//"));
    }
    rig.send(ShardId(0), drain(60_000, 0));
    rig.pass(6_050);
    assert_eq!(closed(&rig), 1);
    rig.send(ShardId(0), drain(0, 0));
    assert_eq!(closed(&rig), 10);
}

#[test]
fn each_close_notice_names_a_random_time_to_wait() {
    let mut rig = Rig::new(2, Limits::default());
    let conns: Vec<ConnId> = (0..100).map(|at| rig.join(at % 2, &format!("/k{at}//"))).collect();
    rig.send_all(&drain(0, 5_000));
    let mut hints: Vec<u32> = Vec::new();
    for conn in conns {
        let notice = rig.take(conn);
        let text = std::str::from_utf8(&notice[16..]).unwrap();
        let hint = text.strip_prefix("draining; retry_after_ms=").expect("a hint");
        hints.push(hint.parse().unwrap());
    }
    hints.sort_unstable();
    assert!(hints[0] < 500 && hints[99] > 4_500 && hints[99] <= 5_000, "{hints:?}");
    hints.dedup();
    assert!(hints.len() > 90, "{hints:?}");
}

fn move_off(most: Option<u64>, over_ms: u32) -> Message {
    Message::MoveOff { most, over_ms, retry_after_ms: 0 }
}

#[test]
fn a_move_off_closes_some_clients_and_new_ones_are_still_accepted() {
    let mut rig = Rig::new(1, Limits::default());
    for at in 0..20 {
        rig.join(0, &format!("/k{at}//"));
    }
    let handshake = rig.connect(0, Transport::Tcp);
    rig.send(ShardId(0), move_off(Some(10), 1_000));
    assert_eq!((closed(&rig), rig.shards[0].counters().moving_off), (0, 10));
    rig.pass(510);
    assert_eq!((closed(&rig), rig.shards[0].counters().moving_off), (5, 5));
    // Another order changes the rate for the clients that remain to be moved off.
    rig.send(ShardId(0), move_off(Some(5), 100));
    rig.pass(110);
    assert_eq!((closed(&rig), rig.shards[0].counters().moving_off), (10, 0));
    rig.pass(2_000);
    assert_eq!(closed(&rig), 10);
    let late = rig.join(0, "/late//");
    // The next order reaches the remaining clients and not those that connected after the first order.
    rig.send(ShardId(0), move_off(Some(10), 0));
    assert_eq!(closed(&rig), 20);
    assert!(!rig.is_closed(late) && !rig.is_closed(handshake));
    assert_eq!(rig.shards[0].counters().live, 1);
}

#[test]
fn an_order_to_move_clients_off_ends_where_none_is_left() {
    let mut rig = Rig::new(1, Limits::default());
    let conns = [0, 1, 2].map(|at| rig.join(0, &format!("/k{at}//")));
    rig.send(ShardId(0), move_off(Some(1_000_000), 1_000));
    rig.pass(1_010);
    assert_eq!((closed(&rig), rig.shards[0].counters().moving_off), (3, 0));
    for conn in conns {
        rig.hang_up(conn);
        rig.take(conn);
    }
    rig.pass(500);
    assert_eq!(rig.shards[0].poll_timeout(), None);
}

#[test]
fn a_drain_that_is_taken_back_lets_clients_in_again() {
    let mut rig = Rig::new(1, Limits::default());
    for at in 0..10 {
        rig.join(0, &format!("/k{at}//"));
    }
    let handshake = rig.connect(0, Transport::Tcp);
    let configure = |rig: &mut Rig, takes_clients| {
        let limits = Limits { takes_clients, ..Limits::default() };
        rig.send_all(&Message::Configure { limits: limits.into() });
    };
    configure(&mut rig, false);
    rig.send(ShardId(0), move_off(None, 11_000));
    assert_eq!(rig.shards[0].handle_accept(Transport::Tcp), None);
    rig.pass(2_010);
    assert_eq!((closed(&rig), rig.shards[0].counters().moving_off), (2, 9));
    configure(&mut rig, true);
    rig.send(ShardId(0), move_off(Some(0), 0));
    rig.pass(60_000);
    assert_eq!((closed(&rig), drained(&rig)), (2, 0));
    rig.join(0, "/again//");
    // The drain includes connections that have not authenticated.
    let second = rig.connect(0, Transport::Tcp);
    rig.send(ShardId(0), move_off(None, 0));
    assert_eq!(rig.reason(second), CloseReason::Draining);
    assert!(rig.is_closed(handshake));
    // The end of the process prevails.
    rig.send(ShardId(0), drain(60_000, 0));
    rig.send(ShardId(0), move_off(Some(0), 0));
    assert!(rig.shards[0].is_draining());
}

/// New clients connect while the notices are sent, and the cursor does not begin at the first slot.
#[test]
fn an_order_to_move_off_reaches_all_present_clients_though_others_connect() {
    let mut rig = Rig::new(1, Limits::default());
    let join = |rig: &mut Rig, at: u32| rig.join(0, &format!("/k{at}//"));
    let mut conns: Vec<ConnId> = (0..20).map(|at| join(&mut rig, at)).collect();
    rig.send(ShardId(0), move_off(Some(10), 0));
    for conn in conns.drain(..10) {
        rig.take(conn);
        rig.hang_up(conn);
    }
    // These clients get slots that the cursor has already passed.
    conns.extend((20..30).map(|at| join(&mut rig, at)));
    rig.send(ShardId(0), move_off(Some(1_000), 1_000));
    (30..330).for_each(|at| _ = join(&mut rig, at));
    rig.pass(1_100);
    for conn in conns {
        assert!(rig.take(conn).ends_with(&frame(6, 0, b"draining")), "{conn:?}");
    }
}

/// The driver passes on no pushes while sends are left, but it does pass on a drain.
#[test]
fn pushes_of_coalescing_windows_are_sent_before_the_close_notices() {
    let rule =
        CoalesceRule { rooms: None, operations: [].into(), window_ms: 50, keep_latest: false };
    for message in [drain(0, 0), move_off(None, 0)] {
        let limits = Limits { coalesce_rules: [rule.clone()].into(), ..Limits::default() };
        let mut rig = Rig::new(1, limits);
        let conn = rig.join(0, "/k/r/");
        rig.push_room("r", 5, b"push");
        assert_eq!(rig.take(conn), b"", "it waits in a window");
        rig.shards[0].handle_message(message);
        rig.shards[0].handle_deadlines(&mut Budget::slice());
        assert_eq!(closed(&rig), 0);
        rig.run();
        assert_eq!(rig.take(conn), [frame(5, 0, b"push"), frame(6, 0, b"draining")].concat());
    }
}

/// The notices wait for a bounded time, even if pushes are still under way.
#[test]
fn close_notices_do_not_wait_for_pushes_for_long() {
    let rule =
        CoalesceRule { rooms: None, operations: [].into(), window_ms: 50, keep_latest: false };
    let mut rig = Rig::new(1, Limits { coalesce_rules: [rule].into(), ..Limits::default() });
    rig.join(0, "/k/r/");
    rig.push_room("r", 5, b"push");
    let shard = &mut rig.shards[0];
    shard.handle_message(drain(0, 0));
    let waits = |shard: &mut Shard, at| {
        shard.handle_time(Millis(at));
        shard.handle_deadlines(&mut Budget::slice());
        shard.counters().closed[CloseReason::Draining as usize] == 0
    };
    assert!(waits(shard, GATHERED_FIRST_MS - 1) && !waits(shard, GATHERED_FIRST_MS));
}
