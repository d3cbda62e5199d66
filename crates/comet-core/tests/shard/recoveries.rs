//! Many clients that come back to a room at once, each with another position: only a bounded part of their missed pushes is in
//! memory at a time.

use comet_core::{
    Budget, CloseReason, Limits, Message, MessageClass, PresenceRule, ShardId, Transport,
};
use comet_proto::{Position, op};

use crate::history::{TELL, Told, join_since, rules, told, told_so_far};
use crate::rig::{Rig, frame, frame_2, room_at};
use crate::rooms::connect;

const CLIENTS: u64 = 100;
const PUSHES: u64 = 30;

/// Two shards; the second one is the home of the room.
fn rig(limits: Limits) -> (Rig, String, Position) {
    let mut rig = Rig::new(2, Limits { history_rules: rules(100), ..limits });
    let room = room_at(1);
    let (conn, _) = connect(&mut rig, 0, "1/first//");
    let [Told::Joined { position: Some(start), .. }] =
        told(&rig.ask(conn, &join_since(&room, None)))[..]
    else {
        panic!("a room with a history has a position")
    };
    rig.hang_up(conn);
    (rig, room, start)
}

#[test]
fn the_memory_of_recoveries_of_many_clients_is_bounded() {
    let limits = Limits { outbox_bytes: 8_000, recovery_memory: 20_000, ..Limits::default() };
    let (mut rig, room, start) = rig(limits);
    (0..PUSHES).for_each(|_| _ = rig.push_room(&room, TELL, &[b'x'; 100]));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| connect(&mut rig, 0, &format!("{number}/k{number}//")).0)
        .collect();
    let since = |number: u64| Position { offset: number % PUSHES, ..start };

    // The home answers two of the clients, and then the next ones.
    rig.held.insert((1, 0));
    for (number, &conn) in (0..).zip(&clients) {
        rig.feed(conn, &join_since(&room, Some(since(number))));
    }
    let answers = std::iter::from_fn(|| rig.shards[1].poll_message(ShardId(0), MessageClass::Push));
    let answers: Vec<Message> = answers.collect();
    // The answer with the position of the room is one more.
    let for_clients = answers.iter().filter(|answer| answer.push_bytes() > 0).count();
    assert_eq!(for_clients, 2);
    answers.into_iter().for_each(|answer| rig.shards[0].handle_message(answer));
    let bytes = rig.shards[0].counters().recovery_bytes;
    assert!((3_000..16_000).contains(&bytes), "{bytes}");
    assert_eq!(rig.shards[0].counters().recoveries_delayed, CLIENTS - 2);

    // Some clients close while they wait, or while the home answers.
    rig.run();
    clients[..10].iter().for_each(|&conn| rig.hang_up(conn));
    rig.held.clear();
    rig.run();
    for (number, &conn) in (0..).zip(&clients).skip(10) {
        let missed = PUSHES - since(number).offset;
        let all = told(&rig.take(conn));
        let Told::Joined { recovered, .. } = all[0] else { panic!("{all:?}") };
        assert_eq!(u64::from(recovered.expect("the room keeps all")), missed);
        let offset = |told: &Told| match told {
            Told::Push { offset, .. } => *offset,
            other => panic!("{other:?}"),
        };
        let offsets: Vec<u64> = all[1..].iter().map(offset).collect();
        assert_eq!(offsets, (since(number).offset + 1..=PUSHES).collect::<Vec<_>>());
    }
    assert_eq!(rig.shards[0].counters().recovery_bytes, 0);
    let tally = rig.push_room(&room, TELL, b"next");
    assert_eq!(tally.queued, CLIENTS - 10);
    clients[10..].iter().for_each(|&conn| rig.hang_up(conn));
    assert!(rig.shards.iter().all(|shard| shard.home_rooms().is_empty()));
}

/// Encoding a megabyte takes most of a millisecond.
#[test]
fn the_recoveries_that_a_home_answers_in_a_turn_are_bounded() {
    let (mut rig, room, start) = rig(Limits::default());
    (0..90).for_each(|_| _ = rig.push_room(&room, TELL, &[b'x'; 10_000]));
    let clients: Vec<_> =
        (0..5).map(|key| connect(&mut rig, 1, &format!("{key}/k{key}//")).0).collect();
    let answered = |rig: &Rig| rig.shards[1].counters().recoveries[1];
    let shard = &mut rig.shards[1];
    for (offset, &conn) in (0..).zip(&clients) {
        shard.handle_recv(conn, &join_since(&room, Some(Position { offset, ..start })));
    }
    for turn in 1..=5 {
        assert!(rig.shards[1].has_work());
        rig.shards[1].handle_deadlines(&mut Budget::slice());
        while rig.shards[1].has_pushes() {
            rig.shards[1].handle_pushes(&mut Budget::slice(), |_| None);
        }
        assert_eq!(answered(&rig), turn);
    }
    assert!(!rig.shards[1].has_work());
}

/// The client's heartbeats wait with the rest of its input until the recovery is complete. Its reads show that it is alive.
#[test]
fn a_client_that_reads_slowly_while_it_catches_up_is_not_closed() {
    const HEARTBEAT_MS: u32 = 1_000;
    let limits = Limits { outbox_bytes: 500, heartbeat_ms: HEARTBEAT_MS, ..Limits::default() };
    let (mut rig, room, start) = rig(limits);
    (0..PUSHES).for_each(|_| _ = rig.push_room(&room, TELL, &[b'x'; 100]));
    let (conn, _) = connect(&mut rig, 0, "7/k//");
    rig.allow(conn, Some(0));
    rig.feed(conn, &join_since(&room, Some(start)));
    let mut bytes = Vec::new();
    for _ in 0..PUSHES / 3 {
        rig.feed(conn, &frame(op::HEARTBEAT, 1, b""));
        rig.pass(u64::from(HEARTBEAT_MS) * 3 / 4);
        rig.allow(conn, Some(300));
        bytes.extend(rig.take(conn));
    }
    assert!(!rig.is_closed(conn));
    // A client that stops reading is closed soon.
    rig.pass(3 * u64::from(HEARTBEAT_MS));
    assert_eq!(rig.reason(conn), CloseReason::HeartbeatTimeout);
    let (all, _) = told_so_far(&bytes);
    assert!((3..PUSHES as usize).contains(&all.len()), "{}", all.len());
}

/// In each state of the recovery: it waits for memory, it waits for the home, or the client has not read a part yet.
#[test]
fn messages_behind_a_join_are_read_though_the_client_leaves_while_it_catches_up() {
    let limits = Limits { outbox_bytes: 500, recovery_memory: 600, ..Limits::default() };
    let (mut rig, room, start) = rig(limits);
    (0..PUSHES).for_each(|_| _ = rig.push_room(&room, TELL, &[b'x'; 100]));
    let [reader, asked, waiting] = ["1/a//", "2/b//", "3/c//"].map(|token| {
        let (conn, _) = connect(&mut rig, 0, token);
        rig.allow(conn, Some(0));
        conn
    });
    let join_and_send = [join_since(&room, Some(start)), frame(op::SEND, 1, b"last")].concat();
    rig.feed(reader, &join_and_send);
    // From here on the home does not answer.
    rig.held.insert((1, 0));
    rig.feed(asked, &join_and_send);
    rig.feed(waiting, &join_and_send);
    assert_eq!(rig.shards[0].counters().recoveries_delayed, 1);
    for (received, conn) in [(0, asked), (0, reader), (1, waiting)] {
        assert_eq!(rig.shards[0].counters().received, received);
        rig.hang_up(conn);
    }
    assert_eq!(rig.shards[0].counters().received, 2);
    rig.held.clear();
    rig.run();
    assert_eq!(rig.shards[0].counters().received, 3);
    for conn in [reader, asked, waiting] {
        assert_eq!(rig.reason(conn), CloseReason::PeerClosed);
    }
    assert_eq!(rig.shards[0].counters().recovery_bytes, 0);
    assert!(rig.shards.iter().all(|shard| shard.home_rooms().is_empty()));
}

/// Nested calls for so many joins would exhaust the stack.
#[test]
fn many_joins_are_read_though_the_client_leaves_while_it_catches_up() {
    const JOINS: usize = 20_000;
    let limits = Limits { recovery_memory: 600, body_max: 1 << 20, ..Limits::default() };
    let (mut rig, room, start) = rig(limits);
    (0..PUSHES).for_each(|_| _ = rig.push_room(&room, TELL, &[b'x'; 100]));
    let [asked, waiting] = ["1/a//", "2/b//"].map(|token| connect(&mut rig, 0, token).0);
    rig.held.insert((1, 0));
    rig.feed(asked, &join_since(&room, Some(start)));
    let joins = join_since(&room, Some(start)).repeat(JOINS);
    rig.feed(waiting, &[joins, frame(op::SEND, 1, b"last")].concat());
    rig.hang_up(waiting);
    assert_eq!(rig.reason(waiting), CloseReason::PeerClosed);
    assert_eq!(rig.shards[0].counters().received, 1);
}

/// The home reports entered members, and answers a client of its own shard. Either may come first in the turn.
#[test]
fn a_push_of_the_home_itself_comes_behind_an_answer_that_it_follows() {
    const WINDOW_MS: u64 = 1_000;
    for former_steps in 0..12 {
        let window_ms = WINDOW_MS as u32;
        let rule = PresenceRule { prefix: "r".into(), operation: TELL, window_ms, names: 1 };
        let (mut rig, room, start) =
            rig(Limits { presence_rules: [rule].into(), ..Limits::default() });
        let other = rig.connect(1, Transport::Tcp);
        rig.ask(other, &frame_2(op::AUTH, 1, format!("8/other/{room}/").as_bytes()));
        rig.pass(2 * WINDOW_MS);
        rig.take(other);
        let (conn, _) = connect(&mut rig, 1, "7/k//");
        // A client enters. The members are told at the end of the window.
        rig.join(1, &format!("9/third/{room}/"));
        (0..former_steps).for_each(|_| rig.shards[1].handle_deadlines(&mut Budget::new(0)));
        let shard = &mut rig.shards[1];
        shard.handle_recv(conn, &join_since(&room, Some(start)));
        rig.stall(WINDOW_MS);
        rig.run();
        let before = told(&rig.take(other));
        rig.push_room(&room, TELL, b"later");
        let all = [before, told(&rig.take(other)), told(&rig.take(conn))].concat();
        let has_gap = all.iter().any(|told| matches!(told, Told::Gap(_)));
        assert!(!has_gap, "after {former_steps} steps: {all:?}");
    }
}
