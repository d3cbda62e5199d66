//! Coalescing: what ends a window, what members get in one send, and how each push is counted.

use std::sync::Arc;

use comet_core::limits::GATHERED_BYTES_MAX;
use comet_core::{
    CallId, CoalesceRule, ConnId, DropReason, Kick, Limits, Message, Push, Report, SlowConsumer,
    Tally, home_of_room,
};

use crate::rig::{Rig, frame, push, room_at};

const WINDOW_MS: u64 = 50;

fn rule() -> CoalesceRule {
    let window_ms = WINDOW_MS as u32;
    CoalesceRule { rooms: None, operations: [].into(), window_ms, keep_latest: false }
}

fn keep_latest() -> CoalesceRule {
    CoalesceRule { keep_latest: true, ..rule() }
}

fn limits(rules: impl Into<Box<[CoalesceRule]>>) -> Limits {
    Limits { coalesce_rules: rules.into(), ..Limits::default() }
}

impl Rig {
    /// Begins a push to a room; an empty `id` is none.
    fn begin(&mut self, room: &str, operation: i32, id: &str, body: &[u8]) -> CallId {
        let call = self.call();
        let home = home_of_room(room, self.shards.len() as u16);
        let collapse_id = (!id.is_empty()).then(|| id.into());
        let push = Push { collapse_id, ..push(operation, body) };
        self.send(home, Message::PushRoom { call, room: room.into(), push });
        call
    }

    fn sends(&self) -> u64 {
        self.shards.iter().map(|shard| shard.counters().sends).sum()
    }

    /// The outcome of a call, once all its reports are there.
    fn outcome(&self, call: CallId) -> Tally {
        let of_call = |report: &&Report| match report {
            Report::Tally { call: of, .. } | Report::PartialTally { call: of, .. } => *of == call,
            _ => false,
        };
        let missing = |report: &Report| match report {
            Report::Tally { partials, .. } => i64::from(*partials),
            _ => -1,
        };
        let reports = || self.reports.iter().filter(of_call);
        assert_eq!(reports().map(missing).sum::<i64>(), 0, "{call:?} is not complete");
        assert!(reports().count() > 0);
        let tally = self.tally(call);
        assert_eq!(tally.matched, tally.queued + tally.dropped_total());
        tally
    }
}

fn queued(connections: u64) -> Tally {
    Tally { matched: connections, queued: connections, ..Tally::default() }
}

fn superseded(connections: u64) -> Tally {
    let mut tally = Tally::default();
    tally.drop_as(DropReason::Superseded, connections);
    tally
}

/// Clients of both shards, in a room with its home at shard 1.
fn members(rig: &mut Rig) -> (String, Vec<ConnId>) {
    let room = room_at(1);
    let conns = [0, 0, 1].map(|shard| rig.join(shard, &format!("//{room}/")));
    (room, conns.to_vec())
}

#[test]
fn the_pushes_of_a_window_leave_in_one_send_and_in_order() {
    let mut rig = Rig::new(2, limits([rule()]));
    let (room, conns) = members(&mut rig);
    let before = rig.sends();
    let calls = [b"1", b"2", b"3"].map(|body| rig.begin(&room, 5, "", body));
    rig.pass(WINDOW_MS - 1);
    assert_eq!((rig.sends(), rig.take(conns[0])), (before, Vec::new()));
    // The home has already answered control, so the calls delay no other push.
    let is_answer = |report: &&Report| matches!(report, Report::Tally { partials: 2, .. });
    assert_eq!(rig.reports.iter().filter(is_answer).count(), 3);
    rig.pass(1);
    assert_eq!(rig.sends(), before + 3);
    for conn in conns {
        assert_eq!(rig.take(conn), [b"1", b"2", b"3"].map(|body| frame(5, 0, body)).concat());
    }
    assert_eq!(calls.map(|call| rig.outcome(call)), [queued(3); 3]);
    let counters = rig.shards[0].counters();
    assert_eq!((counters.coalesce_windows, counters.coalesced, counters.gathered), (1, 3, 0));
}

/// A push that arrived during the sends of the last turn waits no longer than its window either.
#[test]
fn a_window_counts_from_the_begin_of_a_turn_that_has_just_ended() {
    for (turn_ms, slept_ms, window_ms) in
        [(0, 0, 50), (6, 0, 44), (6, 1, 50), (25, 0, 25), (400, 0, 25)]
    {
        let mut rig = Rig::new(1, limits([rule()]));
        let conn = rig.join(0, "//r/");
        rig.pass(1_000);
        rig.shards[0].handle_turn(turn_ms * 1_000);
        rig.pass((turn_ms + slept_ms).into());
        rig.begin("r", 5, "", b"1");
        rig.pass(window_ms - 1);
        assert_eq!(rig.take(conn), b"", "after a turn of {turn_ms} ms");
        rig.pass(1);
        assert_eq!(rig.take(conn), frame(5, 0, b"1"), "after a turn of {turn_ms} ms");
    }
}

/// The newer push keeps its own place in the order of the room. Members of a new room are counted.
#[test]
fn the_latest_push_with_an_id_supersedes_those_that_wait() {
    let mut rig = Rig::new(2, limits([keep_latest()]));
    let (room, conns) = members(&mut rig);
    let pushes = [("a", b"1"), ("b", b"2"), ("", b"3"), ("a", b"4"), ("a", b"5"), ("", b"6")];
    let calls = pushes.map(|(id, body)| rig.begin(&room, 5, id, body));
    rig.pass(WINDOW_MS);
    for conn in conns {
        assert_eq!(rig.take(conn), [b"2", b"3", b"5", b"6"].map(|body| frame(5, 0, body)).concat());
    }
    let outcomes = calls.map(|call| rig.outcome(call));
    let (kept, gone) = (queued(3), superseded(3));
    assert_eq!(outcomes, [gone, kept, kept, gone, kept, kept]);
    let mut total = Tally::default();
    rig.shards.iter().for_each(|shard| total += shard.counters().deliveries);
    assert_eq!((total.queued, total.dropped[DropReason::Superseded as usize]), (12, 6));
}

/// A client that does not read: its outbox has the push in flight and space for eight more.
fn slow_member(limits: Limits) -> (Rig, ConnId) {
    let mut rig = Rig::new(1, Limits { svr_proto: 8, ..limits });
    let conn = rig.join(0, "//r/");
    rig.allow(conn, Some(0));
    rig.begin("r", 5, "", b"under way");
    rig.pass(WINDOW_MS);
    (rig, conn)
}

#[test]
fn a_slow_client_gets_the_newest_states_whatever_else_its_outbox_drops() {
    for slow_consumer in [SlowConsumer::DropNewest, SlowConsumer::DropOldest] {
        let (mut rig, conn) = slow_member(Limits { slow_consumer, ..limits([keep_latest()]) });
        let plain: Vec<_> = (0..7).map(|body| ("", [b'0' + body])).collect();
        let states = [("rare", *b"r"), ("a", *b"a"), ("a", *b"b"), ("other", *b"o"), ("a", *b"c")];
        for (id, body) in plain.iter().chain(&states) {
            rig.begin("r", 5, id, body);
            rig.pass(WINDOW_MS);
        }
        rig.allow(conn, None);
        let bodies: [&[u8]; 9] = [b"under way", b"2", b"3", b"4", b"5", b"6", b"r", b"o", b"c"];
        let expected = bodies.map(|body| frame(5, 0, body)).concat();
        assert_eq!(rig.take(conn).escape_ascii().to_string(), expected.escape_ascii().to_string());
        let counters = rig.shards[0].counters();
        assert_eq!(counters.deliveries.dropped_total(), 0);
        assert_eq!((counters.superseded, counters.sent), (4, 9), "{slow_consumer:?}");
        // Two states were replaced by newer ones.
        assert_eq!(counters.displaced, 2, "{slow_consumer:?}");
    }
}

/// If there are more states than places in its outbox, a client that is behind keeps the oldest.
#[test]
fn an_outbox_has_no_more_states_than_places() {
    let (mut rig, conn) = slow_member(limits([keep_latest()]));
    for id in 0..20 {
        rig.begin("r", 5, &id.to_string(), &[id]);
        rig.pass(WINDOW_MS);
    }
    let counters = rig.shards[0].counters();
    assert_eq!(counters.deliveries.dropped[DropReason::OutboxFull as usize], 12);
    rig.begin("r", 5, "7", b"new");
    rig.pass(WINDOW_MS);
    rig.allow(conn, None);
    assert!(rig.take(conn).ends_with(&[frame(5, 0, &[6]), frame(5, 0, b"new")].concat()));
}

#[test]
fn an_id_without_keep_latest_supersedes_nothing() {
    for rules in [vec![rule()], Vec::new()] {
        let mut rig = Rig::new(2, limits(rules));
        let (room, _) = members(&mut rig);
        let calls = [b"1", b"2"].map(|body| rig.begin(&room, 5, "a", body));
        rig.pass(WINDOW_MS);
        assert_eq!(calls.map(|call| rig.outcome(call)), [queued(3); 2]);
    }
}

#[test]
fn rules_cover_rooms_by_prefix_and_pushes_by_operation() {
    let check = |rooms: Option<&str>, operations: &[i32], room: &str, operation, waits: bool| {
        let rule =
            CoalesceRule { rooms: rooms.map(Into::into), operations: operations.into(), ..rule() };
        let mut rig = Rig::new(1, limits([rule]));
        let conn = rig.join(0, &format!("//{room}/"));
        rig.begin(room, operation, "", b"x");
        assert_eq!(
            rig.take(conn).is_empty(),
            waits,
            "{rooms:?} {operations:?}: {room} {operation}"
        );
        rig.push_all(operation, b"y", None);
        let waits = waits && rooms.is_none();
        assert_eq!(rig.take(conn).is_empty(), waits, "broadcast: {rooms:?} {operations:?}");
        rig.pass(WINDOW_MS);
        assert_eq!(rig.shards[0].counters().sent, 2);
    };
    check(None, &[], "live:1", 5, true);
    check(Some("live:"), &[], "live:1", 5, true);
    check(Some("live:"), &[], "chat:1", 5, false);
    check(None, &[6, 5], "live:1", 5, true);
    check(None, &[6, 7], "live:1", 5, false);
    check(Some("live:"), &[5], "live:1", 5, true);
    check(Some("live:"), &[6], "live:1", 5, false);
}

/// A push that no rule covers is not delayed by a window, and does not overtake the pushes in it.
#[test]
fn a_push_that_no_rule_covers_ends_the_window() {
    let mut rig = Rig::new(2, limits([CoalesceRule { operations: [6].into(), ..rule() }]));
    let (room, conns) = members(&mut rig);
    let calls =
        [(6, b"1"), (5, b"2")].map(|(operation, body)| rig.begin(&room, operation, "", body));
    for &conn in &conns {
        assert_eq!(rig.take(conn), [frame(6, 0, b"1"), frame(5, 0, b"2")].concat());
    }
    assert_eq!(calls.map(|call| rig.outcome(call)), [queued(3); 2]);
    rig.pass(WINDOW_MS);
    assert_eq!(rig.take(conns[0]), b"");
}

#[test]
fn a_shorter_window_in_the_same_room_ends_that_of_both() {
    let short = CoalesceRule { operations: [6].into(), window_ms: 10, ..rule() };
    let mut rig = Rig::new(2, limits([short, rule()]));
    let (room, conns) = members(&mut rig);
    rig.begin(&room, 5, "", b"1");
    rig.begin(&room, 6, "", b"2");
    rig.pass(10);
    assert_eq!(rig.take(conns[0]), [frame(5, 0, b"1"), frame(6, 0, b"2")].concat());
    assert!(rig.shards.iter().all(|shard| !shard.is_gathering()));
}

/// Windows that are open when the rules are removed end at their time, or before the next push to the same room.
#[test]
fn a_window_outlives_its_rule() {
    let mut rig = Rig::new(2, limits([rule()]));
    let (room, conns) = members(&mut rig);
    for waits in [true, false] {
        rig.send_all(&Message::Configure { limits: Arc::new(limits([rule()])) });
        rig.begin(&room, 5, "", b"1");
        rig.send_all(&Message::Configure { limits: Arc::new(Limits::default()) });
        assert_eq!(rig.take(conns[0]), b"");
        if waits {
            rig.pass(WINDOW_MS);
            assert_eq!(rig.take(conns[0]), frame(5, 0, b"1"));
        } else {
            rig.begin(&room, 5, "", b"2");
            assert_eq!(rig.take(conns[0]), [frame(5, 0, b"1"), frame(5, 0, b"2")].concat());
        }
    }
}

#[test]
fn the_members_at_the_end_of_a_window_get_its_pushes() {
    let mut rig = Rig::new(2, limits([rule()]));
    let (room, conns) = members(&mut rig);
    let call = rig.begin(&room, 5, "", b"1");
    let late = rig.join(0, &format!("//{room}/"));
    for &conn in &conns[1..] {
        rig.hang_up(conn);
    }
    rig.pass(WINDOW_MS);
    assert_eq!((rig.take(conns[0]), rig.take(late)), (frame(5, 0, b"1"), frame(5, 0, b"1")));
    assert_eq!(rig.outcome(call), queued(2));
    // The room is empty when the window ends.
    let call = rig.begin(&room, 5, "a", b"2");
    rig.hang_up(conns[0]);
    rig.hang_up(late);
    rig.pass(WINDOW_MS);
    assert_eq!(rig.outcome(call), queued(0));
}

#[test]
fn a_drain_ends_all_windows_before_its_close_notices() {
    let mut rig = Rig::new(2, limits([rule()]));
    let (room, conns) = members(&mut rig);
    let call = rig.begin(&room, 5, "", b"1");
    rig.send_all(&Message::Drain { over_ms: 0, retry_after_ms: 0 });
    for conn in conns {
        let received = rig.take(conn);
        assert!(received.starts_with(&frame(5, 0, b"1")), "{received:?}");
    }
    assert_eq!(rig.outcome(call), queued(3));
}

#[test]
fn a_kick_closes_members_behind_the_pushes_that_waited() {
    let mut rig = Rig::new(2, limits([rule()]));
    let (room, conns) = members(&mut rig);
    rig.begin(&room, 5, "", b"1");
    let (call, kick) = (rig.call(), Kick { sentence: "".into(), retry_after_ms: None });
    let home = home_of_room(&room, 2);
    let kick = Push::kick(kick);
    rig.send(home, Message::PushRoom { call, room: room.as_str().into(), push: kick });
    for conn in conns {
        assert!(rig.take(conn).starts_with(&frame(5, 0, b"1")) && rig.is_closed(conn));
    }
}

/// The window is full at half the pushes of a turn, which is half of an outbox.
#[test]
fn a_full_window_ends_before_its_time() {
    let mut rig = Rig::new(2, Limits { svr_proto: 16, ..limits([rule()]) });
    let (room, conns) = members(&mut rig);
    for _ in 0..3 {
        rig.begin(&room, 5, "", b"1");
    }
    assert_eq!(rig.take(conns[0]), b"");
    rig.begin(&room, 5, "", b"1");
    assert_eq!(rig.take(conns[0]), frame(5, 0, b"1").repeat(4));
    // One long push fills the window.
    let mut rig = Rig::new(2, Limits { outbox_bytes: 4_096, ..limits([rule()]) });
    let (room, conns) = members(&mut rig);
    rig.begin(&room, 5, "", &[0; 1_000]);
    assert_eq!(rig.take(conns[0]).len(), 1_016);
}

#[test]
fn a_replaced_push_does_not_fill_a_window() {
    let mut rig = Rig::new(2, Limits { svr_proto: 16, ..limits([keep_latest()]) });
    let (room, conns) = members(&mut rig);
    for body in 0..100 {
        rig.begin(&room, 5, "a", &[body]);
    }
    assert_eq!(rig.take(conns[0]), b"");
    rig.pass(WINDOW_MS);
    assert_eq!(rig.take(conns[0]), frame(5, 0, &[99]));
}

/// Beyond the bound the oldest window ends.
#[test]
fn pushes_that_wait_in_windows_of_a_shard_are_bounded_in_bytes() {
    const LONG: usize = 90_000;
    let rooms = GATHERED_BYTES_MAX / LONG;
    let mut rig = Rig::new(1, limits([rule()]));
    let conns: Vec<_> = (0..=rooms).map(|room| rig.join(0, &format!("//r{room}/"))).collect();
    for room in 0..rooms {
        rig.begin(&format!("r{room}"), 5, "", &[0; LONG]);
        rig.pass(1);
    }
    assert!(conns.iter().take(rooms).any(|conn| rig.take(*conn).is_empty()));
    rig.begin(&format!("r{rooms}"), 5, "", &[0; LONG]);
    let counters = rig.shards[0].counters();
    assert!(counters.gathered_bytes < GATHERED_BYTES_MAX as u64, "{counters:?}");
    assert!(counters.coalesce_windows > 0);
}

/// All members of a crowd get all pushes of the window in one send each.
#[test]
fn a_window_of_a_crowd_goes_out_in_slices() {
    let mut rig = Rig::new(1, Limits { crowd_above: 2, crowd_slice: 2, ..limits([rule()]) });
    let conns = [(); 5].map(|()| rig.join(0, "//r/"));
    let before = rig.sends();
    let calls = [b"1", b"2", b"3"].map(|body| rig.begin("r", 5, "", body));
    rig.pass(WINDOW_MS);
    assert_eq!(rig.sends(), before + 5);
    for conn in conns {
        assert_eq!(rig.take(conn), [b"1", b"2", b"3"].map(|body| frame(5, 0, body)).concat());
    }
    assert_eq!(calls.map(|call| rig.outcome(call)), [queued(5); 3]);
}

#[test]
fn broadcasts_of_an_operation_wait_on_every_shard() {
    let mut rig = Rig::new(2, limits([CoalesceRule { operations: [6].into(), ..keep_latest() }]));
    let (_, conns) = members(&mut rig);
    let calls = [b"1", b"2"].map(|body| {
        let (call, push) = (rig.call(), Push { collapse_id: Some("a".into()), ..push(6, body) });
        rig.send_all(&Message::Broadcast { call, push, speed: None });
        call
    });
    rig.pass(WINDOW_MS);
    for conn in conns {
        assert_eq!(rig.take(conn), frame(6, 0, b"2"));
    }
    for (call, expected) in calls.into_iter().zip([superseded(3), queued(3)]) {
        assert_eq!(rig.tally(call), expected);
    }
}
