//! Pushes of a stream that hosts share: the stream assigns their offsets, which have holes.

use comet_core::limits::STREAM_FRAMES_MAX as S;
use comet_core::{ConnId, Limits, Message, Push, StreamState, Tally, home_of_room};
use comet_proto::Position;

use crate::gaps::{gap, member, offsets};
use crate::history::{TELL, Told, join_since, rules, told};
use crate::rig::{Rig, push, room_at};
use crate::rooms::{connect, join_frame};

const READ: StreamState = StreamState { epoch: 7, floor: 0, seen: 0, is_read: true };

fn rig(state: StreamState) -> Rig {
    let limits =
        Limits { history_rules: rules(1_000), history_is_shared: true, ..Limits::default() };
    let mut rig = Rig::new(2, limits);
    tell(&mut rig, state);
    rig
}

fn tell(rig: &mut Rig, state: StreamState) {
    for is_settled in [false, true] {
        let call = rig.call();
        rig.send_all(&Message::Stream { call, state, is_settled });
    }
}

fn store(rig: &mut Rig, room: &str, offset: u64) -> Tally {
    let call = rig.call();
    let push = Push { offset: offset * S, ..push(TELL, b"push") };
    let message = Message::PushFromStream { call, room: room.into(), push, age_ms: 0 };
    rig.send(home_of_room(room, 2), message);
    rig.tally(call)
}

/// The answers to a client that comes back with this position.
fn back(rig: &mut Rig, number: u16, room: &str, since: Option<Position>) -> (ConnId, Vec<Told>) {
    let (conn, _) = connect(rig, number % 2, &format!("{number}/k{number}//"));
    let all = told(&rig.ask(conn, &join_since(room, since)));
    (conn, all)
}

fn joined(all: &[Told]) -> (Option<Position>, Option<u32>) {
    let Told::Joined { position, recovered, .. } = all[0] else { panic!("{all:?}") };
    (position, recovered)
}

fn at(offset: u64) -> Option<Position> {
    Some(Position { epoch: READ.epoch, offset: offset * S })
}

#[test]
fn pushes_of_the_stream_are_sent_once_to_members_and_recovered_by_others() {
    let mut rig = rig(READ);
    let room = room_at(1);
    let (conn, _) = member(&mut rig, &room);
    for offset in [100, 300, 301] {
        assert_eq!(store(&mut rig, &room, offset).queued, 1);
        assert_eq!(store(&mut rig, &room, offset).matched, 0, "it was there before");
    }
    let all = told(&rig.take(conn));
    assert_eq!(
        (offsets(&all), all.len()),
        (vec![100 * S, 300 * S, 301 * S], 3),
        "holes are no gaps"
    );
    let (_, all) = back(&mut rig, 1, &room, at(100));
    assert_eq!((joined(&all), offsets(&all)), ((at(301), Some(2)), vec![301 * S - 1, 301 * S]));
    tell(&mut rig, StreamState { seen: 500 * S, ..READ });
    let (late, all) = back(&mut rig, 2, &room, at(400));
    assert_eq!(joined(&all), (at(500), Some(0)), "nothing came to the room meanwhile");
    store(&mut rig, &room, 600);
    assert_eq!(offsets(&told(&rig.take(late))), [600 * S]);
    // A push that does not come from the stream has no offset in it.
    assert_eq!(rig.push_room(&room, TELL, b"push").queued, 3);
    assert_eq!(offsets(&told(&rig.take(conn))), [600 * S, 0]);
}

#[test]
fn members_get_a_gap_marker_for_pushes_that_the_stream_dropped() {
    let mut rig = rig(READ);
    let room = room_at(1);
    let (conn, handle) = member(&mut rig, &room);
    store(&mut rig, &room, 100);
    rig.take(conn);
    tell(&mut rig, StreamState { floor: 200 * S, seen: 200 * S, ..READ });
    store(&mut rig, &room, 300);
    let all = told(&rig.take(conn));
    assert_eq!((&all[0], offsets(&all)), (&gap(handle, 100 * S + 1, 300 * S - 1), vec![300 * S]));
    store(&mut rig, &room, 400);
    let all = told(&rig.take(conn));
    assert_eq!((offsets(&all), all.len()), (vec![400 * S], 1), "it is told once");
    let (_, all) = back(&mut rig, 1, &room, at(100));
    assert_eq!(joined(&all).1, None);
    let (_, all) = back(&mut rig, 2, &room, at(200));
    assert_eq!(joined(&all), (at(400), Some(2)));
}

/// For example, its frame is too long for this host.
#[test]
fn members_get_a_gap_marker_for_a_push_that_this_host_refuses() {
    let mut rig = rig(READ);
    let room = room_at(1);
    let (conn, handle) = member(&mut rig, &room);
    store(&mut rig, &room, 100);
    rig.take(conn);
    let call = rig.call();
    let refused = Message::RefuseFromStream { call, room: room.as_str().into(), offset: 200 * S };
    rig.send(home_of_room(&room, 2), refused);
    assert_eq!(rig.tally(call), Tally::default());
    store(&mut rig, &room, 300);
    let all = told(&rig.take(conn));
    assert_eq!((&all[0], offsets(&all)), (&gap(handle, 100 * S + 1, 300 * S - 1), vec![300 * S]));
    for (number, since, recovered) in [(1, 100, None), (2, 200, Some(1))] {
        let (_, all) = back(&mut rig, number, &room, at(since));
        assert_eq!(joined(&all), (at(300), recovered), "{since}");
    }
}

#[test]
fn pushes_in_the_stream_before_the_start_are_not_sent_live() {
    let mut rig = rig(StreamState { is_read: false, ..READ });
    let room = room_at(1);
    let (conn, _) = connect(&mut rig, 0, "7/k//");
    let all = told(&rig.ask(conn, &join_since(&room, at(50))));
    let unknown = Some(Position { epoch: 0, offset: 0 });
    assert_eq!(joined(&all), (unknown, None), "it is not known yet");
    let Told::Joined { handle, .. } = all[0] else { unreachable!("looked at above") };
    assert_eq!(store(&mut rig, &room, 100).matched, 0);
    assert_eq!(rig.take(conn), []);
    tell(&mut rig, READ);
    // The shard asks again for the position of a room that it knew before.
    assert_eq!(told(&rig.take(conn)), [gap(handle, 1, 100 * S)], "it has missed a push");
    assert_eq!(store(&mut rig, &room, 200).queued, 1);
    let (_, all) = back(&mut rig, 2, &room, None);
    assert_eq!(joined(&all), (at(200), None));
    let (_, all) = back(&mut rig, 4, &room, at(50));
    assert_eq!(joined(&all), (at(200), Some(2)));
    let all = told(&rig.take(conn));
    assert_eq!((offsets(&all), all.len()), (vec![200 * S], 1));
}

/// The next process reads the stream from the beginning, and members get the pushes that came meanwhile.
#[test]
fn a_stream_is_handed_over() {
    let mut rig = rig(READ);
    let room = room_at(1);
    let (conn, _) = member(&mut rig, &room);
    for offset in [100, 200] {
        store(&mut rig, &room, offset);
    }
    tell(&mut rig, StreamState { seen: 250 * S, ..READ });
    rig.take(conn);
    let renamed = rig.upgrade(2);
    let (_, conn) = renamed.into_iter().find(|(before, _)| *before == conn).unwrap();
    tell(&mut rig, StreamState { is_read: false, ..READ });
    let matched = [100, 200, 300].map(|offset| store(&mut rig, &room, offset).matched);
    assert_eq!(matched, [0, 0, 1]);
    let all = told(&rig.take(conn));
    assert_eq!((offsets(&all), all.len()), (vec![300 * S], 1));
    // A position before the oldest stored push is accepted too, since the room had no push in between.
    for (number, since, missed) in [(2, 100, 2), (4, 50, 3)] {
        let (_, all) = back(&mut rig, number, &room, at(since));
        assert_eq!(joined(&all), (at(300), Some(missed)), "{since}");
    }
}

/// Members get a gap marker, and then the pushes of the new stream, whose offsets begin anew. A client with a position of the
/// former stream recovers nothing.
#[test]
fn a_stream_that_is_made_anew_has_other_positions() {
    let mut rig = rig(READ);
    let room = room_at(1);
    let (conn, handle) = member(&mut rig, &room);
    store(&mut rig, &room, 100);
    rig.take(conn);
    tell(&mut rig, StreamState { epoch: 8, ..READ });
    assert_eq!(told(&rig.take(conn)), [gap(handle, 100 * S + 1, 100 * S + 1)]);
    let all = told(&rig.ask(conn, &join_since(&room, at(100))));
    let anew = Some(Position { epoch: 8, offset: 0 });
    assert_eq!(joined(&all), (anew, None), "the client is to load its state");
    for offset in [1, 2, 3] {
        assert_eq!(store(&mut rig, &room, offset).queued, 1);
    }
    let all = told(&rig.take(conn));
    assert_eq!((offsets(&all), all.len()), (vec![S, 2 * S, 3 * S], 3));
    let (_, all) = back(&mut rig, 1, &room, at(100));
    let now = Some(Position { epoch: 8, offset: 3 * S });
    assert_eq!((joined(&all), all.len()), ((now, None), 1));
    // An offset of the former stream that the new one has as well.
    let (_, all) = back(&mut rig, 2, &room, at(2));
    assert_eq!((joined(&all), all.len()), ((now, None), 1));
    let since = Some(Position { epoch: 8, offset: S });
    let (_, all) = back(&mut rig, 3, &room, since);
    assert_eq!((joined(&all), offsets(&all)), ((now, Some(2)), vec![3 * S - 1, 3 * S]));
}

#[test]
fn pushes_that_the_stream_dropped_before_the_start_are_not_recovered() {
    let mut rig = rig(StreamState { floor: 50 * S, seen: 50 * S, ..READ });
    let room = room_at(1);
    for offset in [60, 70] {
        store(&mut rig, &room, offset);
    }
    for (number, since, recovered) in [(1, 49, None), (2, 50, Some(2)), (3, 60, Some(1))] {
        let (_, all) = back(&mut rig, number, &room, at(since));
        assert_eq!(joined(&all), (at(70), recovered), "{since}");
    }
    // The same for a room without pushes since the start.
    let quiet = room_at(0);
    for (number, since, recovered) in [(4, 49, None), (5, 50, Some(0))] {
        let (_, all) = back(&mut rig, number, &quiet, at(since));
        assert_eq!(joined(&all).1, recovered, "{since}");
    }
}

/// The new process has no rule for the room, and gets it back by the next upgrade.
#[test]
fn a_rule_that_an_upgrade_removes_takes_the_history_with_it() {
    let mut rig = rig(READ);
    let room = room_at(1);
    store(&mut rig, &room, 100);
    rig.upgrade_with(2, |limits| Limits { history_rules: [].into(), ..limits });
    tell(&mut rig, StreamState { seen: 200 * S, ..READ });
    rig.upgrade_with(2, |limits| Limits { history_rules: rules(1_000), ..limits });
    tell(&mut rig, StreamState { seen: 200 * S, ..READ });
    for (number, since, recovered) in [(2, 50, None), (4, 100, Some(0))] {
        let (_, all) = back(&mut rig, number, &room, at(since));
        assert_eq!(joined(&all), (at(200), recovered), "{since}");
    }
}

/// After an upgrade the new process goes on reading, and the stream has dropped the pushes that came meanwhile.
#[test]
fn members_get_a_gap_marker_for_pushes_lost_during_an_upgrade() {
    let mut rig = rig(READ);
    let room = room_at(1);
    let (conn, handle) = member(&mut rig, &room);
    store(&mut rig, &room, 100);
    rig.take(conn);
    let renamed = rig.upgrade(2);
    let (_, conn) = renamed.into_iter().find(|(before, _)| *before == conn).unwrap();
    tell(&mut rig, StreamState { seen: 100 * S, ..READ });
    tell(&mut rig, StreamState { floor: 200 * S, seen: 200 * S, ..READ });
    store(&mut rig, &room, 300);
    let all = told(&rig.take(conn));
    assert_eq!((&all[0], offsets(&all)), (&gap(handle, 100 * S + 1, 300 * S - 1), vec![300 * S]));
}

/// More clients wait than enter in one turn, and they have left by then. So the room ends with the last of them.
#[test]
fn a_repeated_position_of_a_room_admits_waiting_clients_only_once() {
    let mut rig = rig(READ);
    let room = room_at(1);
    let conns: Vec<ConnId> =
        (0..100).map(|at| connect(&mut rig, 0, &format!("{at}/k{at}//")).0).collect();
    rig.held.insert((1, 0));
    conns.iter().for_each(|&conn| rig.feed(conn, &join_frame(5, room.as_bytes())));
    // The shard asks once more.
    tell(&mut rig, READ);
    for conn in conns {
        rig.hang_up(conn);
    }
    rig.held.clear();
    rig.run();
    let (conn, handle) = member(&mut rig, &room);
    store(&mut rig, &room, 100);
    assert_eq!(offsets(&told(&rig.take(conn))), [100 * S], "{handle:?}");
}
