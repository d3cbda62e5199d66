//! Work that is spread over time: close notices of a drain, paced broadcasts, room counts.

use std::num::NonZeroU32;
use std::sync::Arc;

use comet_core::limits::{PACE_MS, PACED_MAX, ROOM_COUNT_MS, SLICE_UNITS};
use comet_core::{
    Budget, CallId, Limits, Logic, Message, Millis, Report, Shard, ShardId, Transport, home_of_room,
};

use crate::rig::push;

use super::counting::{CALL, Core, Work};

#[test]
fn a_drain_closes_its_share_every_step() {
    const COUNT: u64 = 300_000;
    const OVER_MS: u32 = 60_000;
    let share = COUNT * PACE_MS / u64::from(OVER_MS);
    let limits = Limits { handshakes: u32::MAX, ..Limits::default() };
    let mut core = Core::new(1, limits, Logic::Embedded);
    for _ in 0..COUNT {
        core.shard.handle_accept(Transport::Tcp).expect("the shard is not full");
    }
    core.turn(|shard| {
        shard.handle_message(Message::Drain { over_ms: OVER_MS, retry_after_ms: 1_000 });
    });
    let bound = Work {
        closings: share,
        transmits: share,
        closed_events: share,
        // The notices of the step before are sent, and those sockets are shut.
        closes: share,
        ..Work::default()
    };
    for step in 1..=100 {
        core.pass(PACE_MS);
        let work = core.turn(|_| {});
        work.assert_within(bound, "300,000 close notices");
        assert_eq!(work.closings, share, "step {step}");
        // More turns within the step close nothing.
        assert_eq!(core.turn(|_| {}).closings, 0);
    }
}

/// All close notices are due at once.
#[test]
fn a_drain_at_once_is_spread_over_turns() {
    const COUNT: u64 = 300_000;
    let limits = Limits { handshakes: u32::MAX, ..Limits::default() };
    let mut core = Core::new(1, limits, Logic::Embedded);
    core.slices = 1;
    for _ in 0..COUNT {
        core.shard.handle_accept(Transport::Tcp).expect("the shard is not full");
    }
    let drain = Message::Drain { over_ms: 0, retry_after_ms: 1_000 };
    let mut closed = core.turn(|shard| shard.handle_message(drain)).closings;
    while core.shard.has_work() {
        let work = core.turn(|_| {});
        let most = SLICE_UNITS as u64 / 32;
        let bound = Work {
            closings: most,
            transmits: most,
            closed_events: most,
            closes: most,
            ..Work::default()
        };
        work.assert_within(bound, "300,000 close notices at once");
        closed += work.closings;
    }
    assert_eq!(closed, COUNT);
}

#[test]
fn the_end_of_a_paced_broadcast_is_reported_once() {
    let ended = |core: &mut Core| -> Vec<(CallId, u64)> {
        let reports: Vec<_> = std::iter::from_fn(|| core.shard.poll_report()).collect();
        let ended = reports.iter().filter_map(|report| match report {
            Report::PacedEnded { call, tally, .. } => Some((*call, tally.queued)),
            _ => None,
        });
        ended.collect()
    };
    let mut core = Core::with_members(1, Limits::default(), 3);
    core.turn(|_| {});
    for (call, speed) in [(CallId(1), 1), (CallId(2), 1_000_000)] {
        let speed = NonZeroU32::new(speed);
        core.shard.handle_message(Message::Broadcast { call, push: push(5, b"x"), speed });
    }
    core.shard.handle_deadlines(&mut Budget::slice());
    assert_eq!(ended(&mut core), []);
    core.pass(PACE_MS);
    core.shard.handle_time(Millis(core.now));
    core.shard.handle_deadlines(&mut Budget::slice());
    assert_eq!(ended(&mut core), [(CallId(2), 3)]);
    // One connection was visited at once.
    core.shard.handle_message(Message::CancelBroadcast { call: CallId(1) });
    assert_eq!(ended(&mut core), [(CallId(1), 1)]);
    core.shard.handle_message(Message::CancelBroadcast { call: CallId(1) });
    assert_eq!(ended(&mut core), [(CallId(1), 0)]);
}

/// Orders overtake pushes that wait for their turn.
#[test]
fn a_paced_broadcast_that_was_cancelled_before_it_came_does_not_begin() {
    let mut core = Core::with_members(1, Limits::default(), 3);
    core.turn(|_| {});
    core.shard.handle_message(Message::CancelBroadcast { call: CallId(1) });
    for call in [CallId(1), CallId(2)] {
        let speed = NonZeroU32::new(1_000);
        core.shard.handle_message(Message::Broadcast { call, push: push(5, b"x"), speed });
    }
    let reports = std::iter::from_fn(|| core.shard.poll_report());
    let paced: Vec<_> = reports
        .filter_map(|report| match report {
            Report::PacedEnded { call, tally, .. } => Some((call, None, tally.matched)),
            Report::Scheduled { call, connections, .. } => Some((call, Some(connections), 0)),
            _ => None,
        })
        .collect();
    assert_eq!(paced, [(CallId(1), None, 0), (CallId(1), Some(0), 0), (CallId(2), Some(3), 0)]);
}

#[test]
fn a_paced_broadcast_makes_up_for_one_second_at_most() {
    const SPEED: u32 = 500;
    let mut core = Core::with_members(1, Limits::default(), 2_000);
    core.turn(|_| {});
    let speed = NonZeroU32::new(SPEED);
    let broadcast = || Message::Broadcast { call: CALL, push: push(5, b"x"), speed };
    let mut reports = Vec::new();
    for _ in 0..=PACED_MAX {
        core.shard.handle_message(broadcast());
        reports.extend(std::iter::from_fn(|| core.shard.poll_report()));
    }
    let scheduled = reports.iter().filter(|report| matches!(report, Report::Scheduled { .. }));
    assert_eq!(scheduled.count(), PACED_MAX);
    assert!(matches!(reports.last(), Some(Report::Busy { .. })));

    let all = PACED_MAX as u64;
    let per_step = all * u64::from(SPEED) * PACE_MS / 1_000;
    let within = |core: &mut Core, deliveries: u64, case: &str| {
        let work = core.turn(|_| {});
        work.assert_within(Work { deliveries, transmits: 2_000, ..Work::default() }, case);
    };
    // Each visits its first connection at once.
    within(&mut core, all, "begin");
    for _ in 0..50 {
        core.pass(PACE_MS);
        within(&mut core, per_step, "a step");
        within(&mut core, 0, "the same step");
    }
    core.pass(10_000);
    within(&mut core, all * u64::from(SPEED), "a step after a stall");
}

#[test]
fn a_room_sends_one_count_every_step_and_none_while_one_waits() {
    const ROOMS: usize = 5_000;
    let mut core = Core::new(2, Limits::default(), Logic::Embedded);
    let room = |number: usize| -> Arc<str> { format!("r{number}").into() };
    let here = |number: &usize| home_of_room(&room(*number), 2).0 == 0;
    let rooms: Vec<Arc<str>> = (0..ROOMS).filter(here).map(room).collect();
    let load = rooms.len() as u64;
    let change = |shard: &mut Shard, members: u32| {
        for room in &rooms {
            let room = Arc::clone(room);
            shard.handle_message(Message::RoomMembers { shard: ShardId(1), room, members });
        }
    };
    core.turn(|shard| {
        for room in &rooms {
            let room = Arc::clone(room);
            shard.handle_message(Message::JoinRoom { shard: ShardId(1), room });
        }
    });
    /// Messages of a step, which takes as many turns as its counts fill slices.
    fn step(core: &mut Core, input: impl FnOnce(&mut Shard)) -> u64 {
        let mut messages = core.turn(input).messages;
        while core.shard.has_work() {
            let work = core.turn(|_| {});
            let most = SLICE_UNITS as u64 / 8;
            work.assert_within(Work { messages: most, ..Work::default() }, "a slice of counts");
            messages += work.messages;
        }
        messages
    }
    core.pass(ROOM_COUNT_MS);
    step(&mut core, |_| {});
    for _ in 0..3 {
        core.pass(ROOM_COUNT_MS);
        // One count is sent, however often it changes within a step.
        let changes = |shard: &mut Shard| (1..10).for_each(|members| change(shard, members));
        assert_eq!(step(&mut core, changes), load, "changed counts");
        core.pass(ROOM_COUNT_MS / 2);
        assert_eq!(step(&mut core, |shard| change(shard, 1)), 0, "within the step");
        core.pass(ROOM_COUNT_MS / 2);
        assert_eq!(step(&mut core, |_| {}), load, "the last change");
    }
    // The peer takes nothing for some steps: one slice of counts waits for it, and no more.
    for members in 20..25 {
        change(&mut core.shard, members);
        core.pass(ROOM_COUNT_MS);
        core.shard.handle_time(Millis(core.now));
        core.shard.handle_deadlines(&mut Budget::slice());
    }
    assert!(step(&mut core, |_| {}) <= load + SLICE_UNITS as u64 / 8, "counts that waited");
}
