//! Rooms that keep a history.

use std::sync::Arc;

use comet_core::{
    Budget, CoalesceRule, ConnId, HistoryRule, Limits, Message, MessageClass, ShardId, Transport,
};
use comet_proto::{
    Frame, Join, JoinReply, Leave, Position, RoomGap, RoomHandle, RoomPush, count_frames, decode,
    op,
};
use proptest::prelude::*;

use crate::rig::{Rig, frame, frame_2, push, room_at};
use crate::rooms::connect;

/// Operation of pushes.
pub(crate) const TELL: i32 = 1_000;

pub(crate) fn rules(pushes: u32) -> Box<[HistoryRule]> {
    [HistoryRule { prefix: "r".into(), pushes, bytes: 1 << 20, age_ms: 60_000 }].into()
}

pub(crate) fn join_since(room: &str, since: Option<Position>) -> Vec<u8> {
    frame_2(op::JOIN, 5, &Join { since, room: room.as_bytes() }.encode())
}

/// A summary of a frame about rooms that was sent to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Joined {
        handle: RoomHandle,
        position: Option<Position>,
        recovered: Option<u32>,
    },
    /// A push, or each of a batch, with its offset.
    Push {
        handle: RoomHandle,
        offset: u64,
        body: Vec<u8>,
    },
    Left,
    Gap(RoomGap),
}

pub(crate) fn told(bytes: &[u8]) -> Vec<Told> {
    let (all, rest) = told_so_far(bytes);
    assert!(rest.is_empty(), "whole frames");
    all
}

/// The summaries of the whole frames, and the bytes of an incomplete one.
pub(crate) fn told_so_far(mut bytes: &[u8]) -> (Vec<Told>, &[u8]) {
    let mut all = Vec::new();
    while let Some((frame, consumed)) = decode(bytes, 1 << 20).unwrap() {
        bytes = &bytes[consumed..];
        match frame.operation {
            op::JOIN_REPLY => {
                let JoinReply { outcome, position, recovered, .. } =
                    JoinReply::decode(frame.body).unwrap();
                all.push(Told::Joined { handle: outcome.unwrap(), position, recovered });
            }
            op::LEAVE_REPLY => all.push(Told::Left),
            op::GAP => all.push(Told::Gap(RoomGap::decode(frame.body).unwrap())),
            op::RAW => all.extend(told(frame.body)),
            op::ROOM_PUSH => {
                let RoomPush { handle, operation, offset, mut body } =
                    RoomPush::decode(frame.body).unwrap();
                if operation != op::RAW {
                    all.push(Told::Push { handle, offset, body: body.to_vec() });
                    continue;
                }
                let mut left = count_frames(body).unwrap() as u64;
                while let Some((Frame { body: inner, .. }, consumed)) =
                    decode(body, 1 << 20).unwrap()
                {
                    left -= 1;
                    all.push(Told::Push { handle, offset: offset - left, body: inner.to_vec() });
                    body = &body[consumed..];
                }
            }
            operation => panic!("operation {operation}"),
        }
    }
    (all, bytes)
}

#[test]
fn a_returning_client_gets_missed_pushes_and_then_live_ones() {
    let mut rig = Rig::new(2, Limits { history_rules: rules(3), ..Limits::default() });
    for room in [room_at(0), room_at(1)] {
        let (conn, _) = connect(&mut rig, 0, "7/k//");
        let joined = told(&rig.ask(conn, &join_since(&room, None)));
        let [Told::Joined { handle, position: Some(start), recovered: None }] = joined[..] else {
            panic!("{joined:?}")
        };
        assert_eq!(start.offset, 0);
        let told_push = |offset: u64, body: &[u8]| Told::Push { handle, offset, body: body.into() };
        rig.push_room(&room, TELL, b"1");
        let run = [frame(TELL, 0, b"2"), frame(TELL, 0, b"3")].concat();
        rig.push_room(&room, op::RAW, &run);
        let pushes = [told_push(1, b"1"), told_push(2, b"2"), told_push(3, b"3")];
        assert_eq!(told(&rig.take(conn)), pushes);

        // The client knows the first push.
        let leave = |rig: &mut Rig, handle| {
            let body = Leave { handle }.encode();
            assert_eq!(told(&rig.ask(conn, &frame_2(op::LEAVE, 6, &body))), [Told::Left]);
        };
        leave(&mut rig, handle);
        let at = |offset| Some(Position { offset, ..start });
        let back = told(&rig.ask(conn, &join_since(&room, at(1))));
        let joined = |offset, recovered| Told::Joined { handle, position: at(offset), recovered };
        let [_, two, three] = pushes;
        assert_eq!(back, [joined(3, Some(2)), two, three]);
        rig.push_room(&room, TELL, b"4");
        rig.push_room(&room, TELL, b"5");
        assert_eq!(told(&rig.take(conn)), [told_push(4, b"4"), told_push(5, b"5")]);

        // All missed pushes or none: the room keeps three. Other epochs and later offsets recover none either.
        let other = Position { epoch: start.epoch ^ 1, offset: 5 };
        for (since, recovered) in
            [(at(5), Some(0)), (at(0), None), (at(6), None), (Some(other), None), (None, None)]
        {
            leave(&mut rig, handle);
            let back = told(&rig.ask(conn, &join_since(&room, since)));
            assert_eq!(back, [joined(5, recovered)]);
        }
        // In the room it gets pushes once, also if it asks again.
        rig.push_room(&room, TELL, b"6");
        assert_eq!(told(&rig.take(conn)), [told_push(6, b"6")]);
        rig.hang_up(conn);
    }
    let counters = rig.shards[0].counters();
    assert_eq!(counters.recoveries, [6, 4]);
    let kept: u64 = rig.shards.iter().map(|shard| shard.counters().history_bytes).sum();
    assert!(kept > 0);
    for shard in &rig.shards {
        assert!(shard.home_rooms().is_empty());
    }
}

/// A configuration without the rule is loaded, and then the one before it again.
#[test]
fn a_history_rule_that_is_removed_and_restored_starts_a_new_history() {
    let limits = |history_rules| Limits { history_rules, ..Limits::default() };
    let mut rig = Rig::new(1, limits(rules(10)));
    let configure = |rig: &mut Rig, history_rules| {
        rig.send_all(&Message::Configure { limits: Arc::new(limits(history_rules)) });
    };
    let position = |rig: &mut Rig, since| {
        let conn = rig.connect(0, Transport::Tcp);
        rig.ask(conn, &frame_2(op::AUTH, 1, b"7/k//"));
        let told = told(&rig.ask(conn, &join_since("r", since)));
        let Told::Joined { position, recovered, .. } = &told[0] else { panic!("{told:?}") };
        let told = (*position, *recovered);
        rig.hang_up(conn);
        told
    };
    let (first, _) = position(&mut rig, None);
    rig.push_room("r", 5, b"1");
    let (second, recovered) = position(&mut rig, first);
    assert_eq!(recovered, Some(1));
    configure(&mut rig, [].into());
    rig.push_room("r", 5, b"2");
    configure(&mut rig, rules(10));
    rig.push_room("r", 5, b"3");
    // Where no room loses its rule, nothing begins anew.
    configure(&mut rig, rules(20));
    for since in [first, second] {
        let (position, recovered) = position(&mut rig, since);
        assert_eq!((position.map(|position| position.offset), recovered), (Some(1), None));
    }
}

#[test]
fn a_recovery_larger_than_the_outbox_is_sent_in_parts() {
    let limits = Limits { history_rules: rules(100), outbox_bytes: 500, ..Limits::default() };
    let mut rig = Rig::new(2, limits);
    let room = room_at(1);
    let (conn, _) = connect(&mut rig, 0, "7/k//");
    let [Told::Joined { handle, position: Some(start), .. }] =
        told(&rig.ask(conn, &join_since(&room, None)))[..]
    else {
        panic!()
    };
    let leave = frame_2(op::LEAVE, 6, &Leave { handle }.encode());
    rig.ask(conn, &leave);
    for _ in 0..10 {
        rig.push_room(&room, TELL, &[0; 100]);
    }
    let offsets = |all: &[Told]| -> Vec<u64> {
        let offset = |told: &Told| match told {
            Told::Push { offset, .. } => Some(*offset),
            _ => None,
        };
        all.iter().filter_map(offset).collect()
    };
    let since = Some(Position { offset: 0, ..start });
    let position = Some(Position { offset: 10, ..start });
    let joined = Told::Joined { handle, position, recovered: Some(10) };
    let back = told(&rig.ask(conn, &join_since(&room, since)));
    assert_eq!((&back[0], offsets(&back)), (&joined, (1..=10).collect()));

    // A client that does not read gets no more than its outbox holds, and no live push before the rest of the recovery.
    rig.ask(conn, &leave);
    rig.allow(conn, Some(0));
    rig.feed(conn, &join_since(&room, since));
    assert!(rig.shards[0].counters().waiting_bytes <= 500);
    rig.push_room(&room, TELL, &[0; 100]);
    rig.allow(conn, None);
    let back = told(&rig.take(conn));
    assert_eq!((&back[0], offsets(&back)), (&joined, (1..=11).collect()));

    // A client that leaves during a recovery leaves no state behind.
    rig.ask(conn, &leave);
    rig.allow(conn, Some(0));
    rig.feed(conn, &join_since(&room, since));
    rig.hang_up(conn);
    assert!(rig.shards.iter().all(|shard| shard.home_rooms().is_empty()));

    rig.push_room(&room, TELL, &[0; 490]);
    let (conn, _) = connect(&mut rig, 0, "7/k//");
    let back = told(&rig.ask(conn, &join_since(&room, Some(Position { offset: 11, ..start }))));
    let [Told::Joined { recovered: None, .. }] = back[..] else { panic!("{back:?}") };
}

#[derive(Clone, Debug)]
enum Step {
    Join(usize),
    Leave(usize),
    /// The number of pushes in a batch; 1: no batch.
    Push(u8),
    /// The next message of a class to the other shard.
    Deliver(u16, MessageClass),
    /// A shard handles a few pushes, or a slice of a crowd.
    Offer(u16),
    Hangup(usize),
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let client = || 0..CLIENTS;
    prop_oneof![
        6 => client().prop_map(Step::Join),
        3 => client().prop_map(Step::Leave),
        6 => (1..4_u8).prop_map(Step::Push),
        9 => (0..2_u16, prop::bool::ANY).prop_map(|(shard, is_push)| {
            Step::Deliver(shard, MessageClass::ALL[usize::from(is_push)])
        }),
        6 => (0..2_u16).prop_map(Step::Offer),
        1 => client().prop_map(Step::Hangup),
        2 => Just(Step::Settle),
    ]
}

const CLIENTS: usize = 6;

/// A client, and what it has received of the room.
struct Client {
    conn: ConnId,
    /// The client asked to enter with this position, and has not read the answer.
    asked: Option<Option<Position>>,
    handle: Option<RoomHandle>,
    is_leaving: bool,
    position: Option<Position>,
}

impl Client {
    /// `shard` of two.
    fn new(rig: &mut Rig, number: usize) -> Self {
        let (conn, _) = connect(rig, number as u16 % 2, &format!("{number}/k{number}//"));
        Self { conn, asked: None, handle: None, is_leaving: false, position: None }
    }

    /// Reads the client's output. Each push has its offset as its body.
    fn read(&mut self, bytes: &[u8], kept: u64) {
        let mut next = self.position.map(|position| position.offset + 1);
        let mut to_recover = None;
        for told in told(bytes) {
            match told {
                Told::Joined { handle, position, recovered } => {
                    let position = position.expect("the room keeps a history");
                    self.handle = Some(handle);
                    let since = self.asked.take().expect("it asked");
                    next = Some(position.offset + 1);
                    match (since, recovered) {
                        (Some(since), Some(missed)) => {
                            assert_eq!(since.epoch, position.epoch);
                            assert_eq!(since.offset + u64::from(missed), position.offset);
                            next = Some(since.offset + 1);
                            to_recover = (missed > 0).then_some(position.offset);
                        }
                        // A batch goes as a whole.
                        (Some(since), None) => assert!(position.offset - since.offset + 3 > kept),
                        (None, recovered) => assert_eq!(recovered, None),
                    }
                    self.position = Some(position);
                }
                Told::Push { offset, body, handle } => {
                    assert_eq!(Some(handle), self.handle);
                    assert_eq!(Some(offset), next, "in order, without a hole, and once");
                    assert_eq!(body, offset.to_string().into_bytes());
                    next = Some(offset + 1);
                    to_recover.take_if(|last| *last == offset);
                }
                Told::Gap(gap) => panic!("nothing is lost: {gap:?}"),
                Told::Left => {
                    assert!(std::mem::take(&mut self.is_leaving));
                    self.handle = None;
                }
            }
        }
        assert!(to_recover.is_none_or(|last| Some(last + 1) == next), "all of it follows at once");
        if let (Some(position), Some(next)) = (&mut self.position, next) {
            position.offset = next - 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// This holds for any interleaving of shard messages, slices of crowds, windows and requests.
    #[test]
    fn history_comes_first_then_live_pushes_and_none_twice(
        steps in prop::collection::vec(step(), 1..150),
        slice in 1..4_usize,
        home in 0..2_u16,
        kept in prop::sample::select(vec![4_u32, 1_000]),
        has_windows in prop::bool::ANY,
        recovery_memory in prop::sample::select(vec![1, 1 << 20]),
    ) {
        let rule = CoalesceRule {
            rooms: Some("".into()),
            operations: [].into(),
            window_ms: 50,
            keep_latest: false,
        };
        let limits = Limits {
            crowd_above: slice,
            crowd_slice: slice,
            history_rules: rules(kept),
            recovery_memory,
            coalesce_rules: has_windows.then_some(rule).into_iter().collect(),
            ..Limits::default()
        };
        let mut rig = Rig::new(2, limits);
        let room = room_at(home);
        let mut clients: Vec<Client> =
            (0..CLIENTS).map(|number| Client::new(&mut rig, number)).collect();
        let mut top = 0_u64;
        for step in steps.into_iter().chain([Step::Settle]) {
            match step {
                Step::Join(number) => {
                    let Client { conn, asked, handle, is_leaving, position } = &mut clients[number];
                    if asked.is_some() || (handle.is_some() && !*is_leaving) {
                        continue;
                    }
                    // While a leave is under way the client may still get pushes, so it does not know its position yet.
                    let since = position.filter(|_| !*is_leaving);
                    *asked = Some(since);
                    let shard = &mut rig.shards[usize::from(conn.shard.0)];
                    shard.handle_recv(*conn, &join_since(&room, since));
                }
                Step::Leave(number) => {
                    let Client { conn, handle, is_leaving, .. } = &mut clients[number];
                    if let Some(handle) = *handle && !std::mem::replace(is_leaving, true) {
                        let shard = &mut rig.shards[usize::from(conn.shard.0)];
                        let body = Leave { handle }.encode();
                        shard.handle_recv(*conn, &frame_2(op::LEAVE, 6, &body));
                    }
                }
                Step::Push(count) => {
                    let bodies = (1..=u64::from(count)).map(|next| (top + next).to_string());
                    let run = bodies.map(|body| frame(TELL, 0, body.as_bytes()));
                    let single = (top + 1).to_string();
                    let push = match count {
                        1 => push(TELL, single.as_bytes()),
                        _ => push(op::RAW, &run.collect::<Vec<_>>().concat()),
                    };
                    let (call, room) = (rig.call(), room.as_str().into());
                    let shard = &mut rig.shards[usize::from(home)];
                    if shard.takes_pushes() {
                        shard.handle_message(Message::PushRoom { call, room, push });
                        top += u64::from(count);
                    }
                }
                Step::Deliver(from, class) => {
                    let (from, to) = (usize::from(from), 1 - usize::from(from));
                    if (class == MessageClass::Directory || rig.shards[to].takes_pushes())
                        && let Some(message) =
                            rig.shards[from].poll_message(ShardId(to as u16), class)
                    {
                        rig.shards[to].handle_message(message);
                    }
                }
                Step::Offer(shard) => {
                    let shard = &mut rig.shards[usize::from(shard)];
                    if shard.has_work() {
                        shard.handle_deadlines(&mut Budget::new(1));
                    } else if shard.has_pushes() {
                        shard.handle_pushes(&mut Budget::new(1), |_| None);
                    } else {
                        shard.handle_crowds();
                    }
                }
                Step::Hangup(number) => {
                    let position = clients[number].position;
                    rig.hang_up(clients[number].conn);
                    rig.pass(60);
                    for (other, client) in clients.iter_mut().enumerate() {
                        if other != number {
                            client.read(&rig.take(client.conn), kept.into());
                        }
                    }
                    clients[number] = Client { position, ..Client::new(&mut rig, number) };
                }
                Step::Settle => {
                    rig.run();
                    rig.pass(60);
                    for client in &mut clients {
                        client.read(&rig.take(client.conn), kept.into());
                        prop_assert!(client.asked.is_none(), "each request is answered");
                        if client.handle.is_some() {
                            prop_assert_eq!(client.position.unwrap().offset, top);
                        }
                    }
                }
            }
        }
        let count = clients.iter().filter(|client| client.handle.is_some()).count();
        prop_assert_eq!(crate::rooms::members(&mut rig, &room), count as u32);
        clients.iter().for_each(|client| rig.hang_up(client.conn));
        for shard in &rig.shards {
            prop_assert_eq!(shard.counters().further_rooms, 0);
            prop_assert!(shard.home_rooms().is_empty());
        }
    }
}
