//! Gap markers: clients of protocol 2 are told which pushes of a room with a history they have lost.

mod catching_up;
mod entered_again;

use std::collections::BTreeMap;

use comet_core::{CoalesceRule, ConnId, Limits, Message, Push, SlowConsumer, home_of_room};
use comet_proto::{Position, RoomGap, RoomHandle, op};
use proptest::prelude::*;

use crate::history::{TELL, Told, join_since, rules, told, told_so_far};
use crate::rig::{Rig, frame, frame_2, push, room_at};
use crate::rooms::connect;

pub(crate) fn limits(slow_consumer: SlowConsumer) -> Limits {
    Limits { svr_proto: 3, slow_consumer, history_rules: rules(1_000), ..Limits::default() }
}

/// A client of shard 0 in the room, and its handle.
pub(crate) fn member(rig: &mut Rig, room: &str) -> (ConnId, RoomHandle) {
    let (conn, _) = connect(rig, 0, "7/k//");
    let [Told::Joined { handle, .. }] = told(&rig.ask(conn, &join_since(room, None)))[..] else {
        panic!()
    };
    (conn, handle)
}

pub(crate) fn gap(handle: RoomHandle, first: u64, last: u64) -> Told {
    Told::Gap(RoomGap { handle, is_outdated: false, first, last })
}

pub(crate) fn offsets(all: &[Told]) -> Vec<u64> {
    all.iter()
        .filter_map(|told| match told {
            Told::Push { offset, .. } => Some(*offset),
            _ => None,
        })
        .collect()
}

#[test]
fn a_gap_marker_stands_in_the_place_of_pushes_that_a_full_outbox_dropped() {
    for (policy, lost, got, place) in [
        (SlowConsumer::DropNewest, 4..=9, vec![1, 2, 3, 10], 3),
        // The first is in flight.
        (SlowConsumer::DropOldest, 2..=7, vec![1, 8, 9, 10], 1),
    ] {
        let mut rig = Rig::new(2, limits(policy));
        let room = room_at(1);
        let (conn, handle) = member(&mut rig, &room);
        rig.allow(conn, Some(0));
        for _ in 1..=9 {
            rig.push_room(&room, TELL, b"push");
        }
        // Nothing is sent after the push in flight, so there is no marker yet.
        assert_eq!(rig.take(conn), []);
        rig.allow(conn, None);
        rig.push_room(&room, TELL, b"push");
        let all = told(&rig.take(conn));
        assert_eq!(offsets(&all), got, "{policy:?}");
        assert_eq!(all[place], gap(handle, *lost.start(), *lost.end()));
        assert_eq!(all.len(), got.len() + 1, "it is told once");
        rig.push_room(&room, TELL, b"push");
        assert_eq!(offsets(&told(&rig.take(conn))), [11]);
    }
}

/// The client asks with its position, and gets the lost pushes and the later ones, each once.
#[test]
fn a_client_recovers_lost_pushes_when_it_asks_with_its_position() {
    for (policy, is_primary) in [
        (SlowConsumer::DropNewest, false),
        (SlowConsumer::DropNewest, true),
        (SlowConsumer::DropOldest, false),
    ] {
        let mut rig = Rig::new(2, limits(policy));
        let room = room_at(1);
        let (conn, handle) = member(&mut rig, &room);
        let Told::Joined { position: Some(start), .. } =
            told(&rig.ask(conn, &join_since(&room_at(0), None)))[0]
        else {
            panic!()
        };
        if is_primary {
            rig.ask(conn, &frame_2(op::CHANGE_ROOM, 6, room.as_bytes()));
        }
        let since = |offset| Some(Position { offset, ..start });
        let mut position = told(&rig.ask(conn, &join_since(&room, since(7))));
        let Some(Told::Joined { position: Some(start), recovered: None, handle: again }) =
            position.pop()
        else {
            panic!("{position:?}")
        };
        assert_eq!(again, handle, "it is the same room");
        let since = |offset| Some(Position { offset, ..start });
        rig.allow(conn, Some(0));
        for _ in 1..=9 {
            rig.push_room(&room, TELL, b"push");
        }
        // While its outbox is full the client waits for space, and gets no live push.
        rig.feed(conn, &join_since(&room, since(1)));
        let tally = rig.push_room(&room, TELL, b"push");
        assert_eq!(tally.matched, 0);
        rig.allow(conn, None);
        let all = told(&rig.take(conn));
        let joined = |told: &Told| matches!(told, Told::Joined { .. });
        let at = all.iter().position(joined).unwrap();
        assert_eq!(
            all[at],
            Told::Joined { handle, position: since(10), recovered: Some(9) },
            "{policy:?}"
        );
        assert_eq!(offsets(&all[at..]), (2..=10).collect::<Vec<u64>>());
        rig.push_room(&room, TELL, b"push");
        assert_eq!(offsets(&told(&rig.take(conn))), [11]);
        let counters = rig.shards[0].counters();
        assert_eq!(counters.repaired, 6);
        let lost = counters.deliveries.dropped_total() + counters.superseded;
        assert_eq!(lost, 6, "what was lost stays so");
        assert_eq!(counters.deliveries.queued, counters.sent + counters.superseded);
        assert_eq!(crate::rooms::members(&mut rig, &room), 1);
        if is_primary {
            let heartbeat = rig.ask(conn, &frame(op::HEARTBEAT, 9, b""));
            assert_eq!(heartbeat, frame(op::HEARTBEAT_REPLY, 9, &[0, 0, 0, 1]));
        }
        rig.hang_up(conn);
        assert!(rig.shards.iter().all(|shard| shard.home_rooms().is_empty()));
    }
}

/// The home may forget pushes while the client still reads earlier parts. They are reported as a gap.
#[test]
fn pushes_that_the_history_no_longer_has_become_a_gap() {
    let limits =
        Limits { svr_proto: 10, outbox_bytes: 500, history_rules: rules(5), ..Limits::default() };
    let mut rig = Rig::new(2, limits);
    let room = room_at(1);
    let (conn, handle) = member(&mut rig, &room);
    let joined = told(&rig.ask(conn, &join_since(&room, Some(Position { epoch: 0, offset: 0 }))));
    let [Told::Joined { position: Some(start), .. }] = joined[..] else { panic!("{joined:?}") };
    rig.allow(conn, Some(0));
    (0..5).for_each(|_| _ = rig.push_room(&room, TELL, &[0; 150]));
    // The client reads two pushes, so half of the outbox is free, and then no more.
    rig.feed(conn, &join_since(&room, Some(start)));
    rig.allow(conn, Some(400));
    (0..5).for_each(|_| _ = rig.push_room(&room, TELL, &[0; 150]));
    rig.allow(conn, None);
    let all = told(&rig.take(conn));
    let told_gap = all.iter().find_map(|told| match told {
        Told::Gap(gap) if gap.last == 10 => Some(*gap),
        _ => None,
    });
    let missing = told_gap.unwrap_or_else(|| panic!("{all:?}"));
    assert_eq!(missing.handle, handle);
    rig.push_room(&room, TELL, b"push");
    assert_eq!(offsets(&told(&rig.take(conn))), [11]);
}

/// There is one marker for each room with losses. A batch has as many offsets as frames.
#[test]
fn gap_markers_of_several_rooms_are_sent_together() {
    let mut rig = Rig::new(2, limits(SlowConsumer::DropNewest));
    let (one, other) = (room_at(0), room_at(1));
    let (conn, handle) = member(&mut rig, &one);
    let [Told::Joined { handle: of_other, .. }] =
        told(&rig.ask(conn, &join_since(&other, None)))[..]
    else {
        panic!()
    };
    rig.allow(conn, Some(0));
    (0..3).for_each(|_| _ = rig.push_room(&one, TELL, b"push"));
    let batch = [frame(TELL, 0, b"x"), frame(TELL, 0, b"y")].concat();
    rig.push_room(&one, op::RAW, &batch);
    rig.push_room(&other, op::RAW, &batch);
    rig.allow(conn, None);
    let all = told(&rig.take(conn));
    assert_eq!(all[3..], [gap(handle, 4, 5), gap(of_other, 1, 2)]);
    assert_eq!(offsets(&all), [1, 2, 3]);
}

/// A client knows the handle before it is told of a gap.
#[test]
fn a_marker_comes_behind_the_reply_that_tells_the_handle() {
    let mut rig = Rig::new(2, limits(SlowConsumer::DropNewest));
    let room = room_at(1);
    let (conn, first) = member(&mut rig, &room_at(0));
    rig.allow(conn, Some(0));
    rig.push_room(&room_at(0), TELL, b"push");
    rig.feed(conn, &join_since(&room, None));
    (0..4).for_each(|_| _ = rig.push_room(&room_at(0), TELL, b"push"));
    rig.push_room(&room, TELL, b"push");
    rig.allow(conn, None);
    let all = told(&rig.take(conn));
    assert_eq!(offsets(&all), [1, 2, 3]);
    let Told::Joined { handle, .. } = all[1] else { panic!("{all:?}") };
    assert_eq!(all[4..], [gap(first, 4, 5), gap(handle, 1, 1)]);
}

/// A client that leaves gets the markers of gaps before pushes that it still gets. Its position is before the other losses.
/// A client of protocol 1 gets no markers.
#[test]
fn a_client_that_leaves_the_room_gets_markers_of_gaps_before_its_last_push() {
    for policy in [SlowConsumer::DropNewest, SlowConsumer::DropOldest] {
        let mut rig = Rig::new(2, limits(policy));
        let room = room_at(1);
        let old = rig.join(0, &format!("8/old/{room}/"));
        let (conn, handle) = member(&mut rig, &room);
        for conn in [old, conn] {
            rig.allow(conn, Some(0));
        }
        (0..9).for_each(|_| _ = rig.push_room(&room, TELL, b"push"));
        rig.feed(conn, &frame_2(op::LEAVE, 6, &comet_proto::Leave { handle }.encode()));
        for conn in [old, conn] {
            rig.allow(conn, None);
        }
        let all = told(&rig.take(conn));
        assert_eq!((all.last(), offsets(&all).len()), (Some(&Told::Left), 3));
        let gaps: Vec<&Told> = all.iter().filter(|told| matches!(told, Told::Gap(_))).collect();
        if policy == SlowConsumer::DropNewest {
            assert_eq!(gaps, [] as [&Told; 0]);
        } else {
            assert_eq!((&all[1], gaps.len()), (&gap(handle, 2, 7), 1));
        }
        assert_eq!(rig.take(old), frame(TELL, 0, b"push").repeat(3));
    }
}

/// A push that a newer one with the same id replaced is not needed any more.
#[test]
fn gap_markers_tell_superseded_pushes_from_lost_ones() {
    let rule = CoalesceRule {
        rooms: Some("".into()),
        operations: [].into(),
        window_ms: 50,
        keep_latest: true,
    };
    let limits = limits(SlowConsumer::DropNewest);
    let mut rig = Rig::new(2, Limits { svr_proto: 16, coalesce_rules: [rule].into(), ..limits });
    let room = room_at(1);
    let (conn, handle) = member(&mut rig, &room);
    let send = |rig: &mut Rig, id: &str| {
        let push = Push { collapse_id: (!id.is_empty()).then(|| id.into()), ..push(TELL, b"") };
        let (call, home) = (rig.call(), home_of_room(&room, 2));
        rig.send(home, Message::PushRoom { call, room: room.as_str().into(), push });
    };
    let outdated = |first, last| Told::Gap(RoomGap { handle, is_outdated: true, first, last });
    // In the window: the first is replaced by the third, and that by the fourth.
    ["a", "", "a", "a"].into_iter().for_each(|id| send(&mut rig, id));
    rig.pass(60);
    let all = told(&rig.take(conn));
    assert_eq!((offsets(&all), &all[0]), (vec![2, 4], &outdated(1, 3)));
    // In the outbox, which has space for sixteen.
    rig.allow(conn, Some(0));
    for id in [""; 15].into_iter().chain(["b", "b"]) {
        send(&mut rig, id);
        rig.pass(60);
    }
    rig.allow(conn, None);
    let all = told(&rig.take(conn));
    assert_eq!(offsets(&all), (5..=19).chain([21]).collect::<Vec<u64>>());
    assert_eq!(all[15], outdated(20, 20));
}

/// The home drops a push. The shard notices the missing offset at the next push.
#[test]
fn pushes_that_the_mesh_drops_become_a_gap_for_members_of_that_shard() {
    let limits = Limits { mesh_backlog: 2, ..limits(SlowConsumer::DropNewest) };
    let mut rig = Rig::new(2, limits);
    let room = room_at(1);
    let (conn, handle) = member(&mut rig, &room);
    rig.held.insert((1, 0));
    (0..2).for_each(|_| _ = rig.push_room(&room, TELL, b"push"));
    let dropped = rig.push_room(&room, TELL, b"push");
    assert_eq!(dropped.dropped_total(), 1);
    rig.held.clear();
    rig.run();
    rig.push_room(&room, TELL, b"push");
    let all = told(&rig.take(conn));
    assert_eq!(offsets(&all), [1, 2, 4]);
    assert!(all.contains(&gap(handle, 3, 3)), "{all:?}");
    let at = |told: &Told| all.iter().position(|other| other == told).unwrap();
    assert!(at(&gap(handle, 3, 3)) < at(all.last().unwrap()));
}

/// There is memory for the answer or for the history, and not for both.
#[test]
fn a_recovering_client_is_not_closed_as_slow_for_want_of_memory() {
    for outbox_memory in (0..1_500).step_by(25) {
        let limits = Limits { outbox_memory, ..limits(SlowConsumer::DropNewest) };
        let mut rig = Rig::new(1, limits);
        let position = history_position(&mut rig);
        (0..3).for_each(|_| _ = rig.push_room("r", TELL, &[b'x'; 100]));
        let (conn, _) = connect(&mut rig, 0, "8/l//");
        rig.feed(conn, &join_since("r", Some(position)));
        assert!(!rig.is_closed(conn), "{outbox_memory} bytes");
    }
}

/// The position of the room, as told to a client that stays in it.
fn history_position(rig: &mut Rig) -> Position {
    let (conn, _) = connect(rig, 0, "9/stays//");
    match told(&rig.ask(conn, &join_since("r", None)))[..] {
        [Told::Joined { position: Some(position), .. }] => position,
        ref other => panic!("{other:?}"),
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A push to a room: the number of pushes in a batch (1: no batch), their bytes, and the state.
    Push(usize, u8, u16, u8),
    /// The client reads this many more bytes.
    Read(u16),
    /// The messages to its shard are held, or released.
    Hold(bool),
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2_usize, 1..3_u8, 0..300_u16, 0..4_u8)
            .prop_map(|(room, count, bytes, id)| Step::Push(room, count, bytes, id)),
        4 => (0..600_u16).prop_map(Step::Read),
        1 => prop::bool::ANY.prop_map(Step::Hold),
        2 => Just(Step::Pass),
    ]
}

/// What one client has received of a room.
#[derive(Default)]
struct Seen {
    offset: u64,
    told: Vec<(u64, u64)>,
}

impl Seen {
    /// Missing pushes up to `offset` were reported.
    fn go_to(&mut self, offset: u64, frames: u64) {
        let is_told = |missing| self.told.iter().any(|gap| (gap.0..=gap.1).contains(&missing));
        assert!(offset >= self.offset + frames, "in order, and once");
        assert!((self.offset + 1..=offset - frames).all(is_told), "to {offset}: {:?}", self.told);
        self.offset = offset;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// This holds for any drops on the way, and for clients that read at any speed.
    #[test]
    fn no_push_is_missing_without_a_marker_before_it(
        steps in prop::collection::vec(step(), 1..120),
        slow_consumer in
            prop::sample::select(vec![SlowConsumer::DropNewest, SlowConsumer::DropOldest]),
        outbox_bytes in prop::sample::select(vec![500_u32, 4_000]),
        has_windows in prop::bool::ANY,
        keep_latest in prop::bool::ANY,
    ) {
        let rule = CoalesceRule {
            rooms: Some("".into()),
            operations: [].into(),
            window_ms: 20,
            keep_latest,
        };
        let limits = Limits {
            svr_proto: 5,
            outbox_bytes,
            mesh_backlog: 3,
            coalesce_rules: has_windows.then_some(rule).into_iter().collect(),
            ..limits(slow_consumer)
        };
        let mut rig = Rig::new(2, limits);
        let rooms = [room_at(0), room_at(1)];
        let (conn, handle) = member(&mut rig, &rooms[0]);
        let joined = told(&rig.ask(conn, &join_since(&rooms[1], None)));
        let [Told::Joined { handle: other, .. }] = joined[..] else { panic!("{joined:?}") };
        let mut seen = BTreeMap::from([(handle, Seen::default()), (other, Seen::default())]);
        let mut unread = Vec::new();
        let mut pushed = [0_u64; 2];
        rig.allow(conn, Some(0));
        // At the end the client reads everything. One more push shows the last drops of the mesh.
        let last = [0, 1].map(|room| Step::Push(room, 1, 0, 0));
        let end = [Step::Hold(false), Step::Pass, Step::Read(u16::MAX), Step::Pass];
        let all_read = [Step::Pass, Step::Read(u16::MAX)];
        for step in steps.into_iter().chain(end).chain(last).chain(all_read) {
            match step {
                Step::Push(room, count, bytes, id) => {
                    let body = vec![b'x'; usize::from(bytes)];
                    let run = frame(TELL, 0, &body).repeat(usize::from(count));
                    let push = if count == 1 { push(TELL, &body) } else { push(op::RAW, &run) };
                    let collapse_id = (id > 0).then(|| id.to_string().into());
                    let (call, name) = (rig.call(), &rooms[room]);
                    let message = Message::PushRoom {
                        call,
                        room: name.as_str().into(),
                        push: Push { collapse_id, ..push },
                    };
                    rig.send(home_of_room(name, 2), message);
                    pushed[room] += u64::from(count);
                }
                Step::Read(bytes) => {
                    let window = (bytes < u16::MAX).then_some(usize::from(bytes));
                    rig.allow(conn, window);
                    rig.allow(conn, window.and(Some(0)));
                    unread.extend(rig.take(conn));
                    let (all, rest) = told_so_far(&unread);
                    for told in all {
                        match told {
                            Told::Push { handle, offset, .. } => {
                                seen.get_mut(&handle).unwrap().go_to(offset, 1);
                            }
                            Told::Gap(RoomGap { handle, first, last, .. }) => {
                                seen.get_mut(&handle).unwrap().told.push((first, last));
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    unread = rest.to_vec();
                }
                Step::Hold(true) => _ = rig.held.insert((1, 0)),
                Step::Hold(false) => {
                    rig.held.clear();
                    rig.run();
                }
                Step::Pass => rig.pass(30),
            }
        }
        for (handle, pushed) in [(handle, pushed[0]), (other, pushed[1])] {
            let seen = seen.get_mut(&handle).unwrap();
            prop_assert_eq!(seen.offset, pushed);
        }
        let counters = rig.shards[0].counters();
        let counted = counters.sent + counters.lost + counters.superseded + counters.waiting;
        prop_assert_eq!(counters.deliveries.queued, counted);
        prop_assert_eq!(counters.waiting_bytes, 0);
    }
}
