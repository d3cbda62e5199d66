//! Pushes: to many keys, to large rooms, to other shards, and in a burst.

use std::sync::Arc;

use comet_core::limits::{MESSAGES_PER_TURN, OWNERS_MAX, ROOM_COUNT_MS, SLICE_UNITS};
use comet_core::{
    Limits, LocalConnId, Logic, Message, MessageBudget, ShardId, SlowConsumer, TokenTime,
};

use crate::rig::push;

use super::counting::{CALL, Core, Work, remote_conn, room_here};

#[test]
fn a_call_costs_one_message_to_each_shard_and_one_report() {
    const SHARDS: u16 = 16;
    const KEYS: u32 = 10_000;
    let mut core = Core::new(SHARDS, Limits::default(), Logic::Embedded);
    let room = room_here(SHARDS);
    let key = |number: u32| -> Box<str> { format!("k{number}").into() };
    core.turn(|shard| {
        for number in 0..KEYS {
            let conn = remote_conn((number % u32::from(SHARDS - 1)) as u16 + 1, number);
            let token_at = TokenTime::default();
            let (user, key) = (42, key(number));
            let register =
                Message::Register { conn, token_at, user, key: Some(key.clone()), is_kept: false };
            shard.handle_message(register);
            shard.handle_message(Message::Claim {
                conn,
                token_at,
                user,
                seq: 1,
                key,
                is_given: true,
                is_kept: false,
                is_beyond: false,
            });
        }
        for peer in (1..SHARDS).map(ShardId) {
            shard.handle_message(Message::JoinRoom { shard: peer, room: Arc::clone(&room) });
        }
    });
    // The counts of the room go out with their own step.
    core.pass(ROOM_COUNT_MS);
    core.turn(|_| {});
    let cases = [
        (
            "10,000 keys",
            Message::PushKeys {
                call: CALL,
                keys: (0..KEYS).map(key).collect(),
                push: push(5, b"x"),
            },
        ),
        (
            "a user with 10,000 sessions",
            Message::PushUsers { call: CALL, users: vec![42], push: push(5, b"x") },
        ),
        (
            "a room with members everywhere",
            Message::PushRoom { call: CALL, room, push: push(5, b"x") },
        ),
    ];
    for (case, message) in cases {
        let work = core.turn(|shard| shard.handle_message(message));
        let bound = Work { messages: u64::from(SHARDS - 1), reports: 1, ..Work::default() };
        work.assert_within(bound, case);
        assert_eq!(work.reports, 1, "{case}");
    }
}

#[test]
fn a_push_costs_one_transmit_for_each_connection_and_one_report() {
    const MEMBERS: usize = 10_000;
    let load = MEMBERS as u64;
    let room: Arc<str> = "r".into();
    let conns = |core: &Core| -> Vec<LocalConnId> {
        core.clients.iter().map(|conn| conn.local()).collect()
    };
    type Load = fn(Vec<LocalConnId>, Arc<str>) -> Message;
    let cases: [(&str, Load); 3] = [
        ("10,000 members", |_, room| Message::DeliverRoom {
            call: CALL,
            room,
            push: push(5, b"x"),
        }),
        ("10,000 owners", |conns, _| Message::DeliverConns {
            call: CALL,
            conns,
            push: push(5, b"x"),
        }),
        ("everybody", |_, _| Message::Broadcast { call: CALL, push: push(5, b"x"), speed: None }),
    ];
    for (case, message) in cases {
        let mut core = Core::with_members(1, Limits::default(), MEMBERS);
        core.turn(|_| {});
        let message = message(conns(&core), Arc::clone(&room));
        let first = core.turn(|shard| shard.handle_message(message.clone()));
        let bound = Work { deliveries: load, transmits: load, reports: 1, ..Work::default() };
        first.assert_within(bound, case);
        // A connection has one transmit in flight, however many pushes wait.
        let sends = std::mem::take(&mut core.in_flight);
        let more = core.turn(|shard| (0..20).for_each(|_| shard.handle_message(message.clone())));
        let bound = Work { deliveries: 20 * load, reports: 20, ..Work::default() };
        more.assert_within(bound, case);
        core.in_flight = sends;
        let bound = Work { transmits: load, ..Work::default() };
        core.turn(|_| {}).assert_within(bound, case);
    }
}

/// For each target of a push and each outcome of its deliveries: a slice of a turn is bounded, the push goes on in the
/// next turn, and its tally is complete.
#[test]
fn a_long_push_is_spread_over_turns() {
    const MEMBERS: usize = 30_000;
    let all = MEMBERS as u64;
    let limits = |slow_consumer| Limits { svr_proto: 1, slow_consumer, ..Limits::default() };
    let room: Arc<str> = "r".into();
    let key = |number: usize| -> Box<str> { number.to_string().into() };
    let push = || push(5, b"x");
    let pushes = [
        ("a room", Message::PushRoom { call: CALL, room: Arc::clone(&room), push: push() }),
        ("everybody", Message::Broadcast { call: CALL, push: push(), speed: None }),
        (
            "keys",
            Message::PushKeys { call: CALL, keys: (0..MEMBERS).map(key).collect(), push: push() },
        ),
        (
            "users",
            Message::PushUsers { call: CALL, users: (1..=MEMBERS as i64).collect(), push: push() },
        ),
    ];
    let policies = [
        (limits(SlowConsumer::DropNewest), 0),
        (limits(SlowConsumer::DropOldest), 0),
        (limits(SlowConsumer::Close), 512),
    ];
    for (target, message) in pushes {
        // Each list of connections found by a home of this shard has a report of its own.
        let is_by_name = matches!(message, Message::PushKeys { .. } | Message::PushUsers { .. });
        let lists = if is_by_name { MEMBERS.div_ceil(OWNERS_MAX) as u64 } else { 0 };
        for (limits, closings) in &policies {
            let case = format!("{target}, {:?}", limits.slow_consumer);
            let mut core = Core::with_members(1, limits.clone(), MEMBERS);
            core.turn(|_| {});
            // The kernel takes nothing, so each outbox has one push in flight and is full.
            core.turn(|shard| shard.handle_message(message.clone()));
            core.in_flight.clear();
            core.slices = 1;
            let mut total = Work::default();
            core.shard.handle_message(message.clone());
            while core.shard.has_pushes() || core.shard.has_crowds() {
                let work = core.turn(|_| {});
                let bound = Work {
                    // The deliveries of one message to a shard are done together.
                    deliveries: (SLICE_UNITS + OWNERS_MAX) as u64,
                    closings: *closings + OWNERS_MAX as u64,
                    transmits: u64::MAX,
                    closed_events: u64::MAX,
                    closes: u64::MAX,
                    messages: 0,
                    reports: 2,
                    tokens: 0,
                };
                work.assert_within(bound, &case);
                total.deliveries += work.deliveries;
                total.closings += work.closings;
                total.reports += work.reports;
            }
            assert_eq!((total.deliveries, total.reports), (all, 1 + lists), "{case}");
            assert_eq!(total.closings, if *closings > 0 { all } else { 0 }, "{case}");
        }
    }
}

/// Each absent key costs one lookup.
#[test]
fn the_keys_of_calls_are_spread_over_turns() {
    let mut core = Core::new(1, Limits::default(), Logic::Embedded);
    core.slices = 1;
    let keys: Vec<Box<str>> = (0..10_000).map(|number: u32| number.to_string().into()).collect();
    for _ in 0..16 {
        let (keys, push) = (keys.clone(), push(5, b"x"));
        core.shard.handle_message(Message::PushKeys { call: CALL, keys, push });
    }
    let mut absent = Vec::new();
    while core.shard.has_pushes() {
        let before = core.shard.counters().deliveries.absent;
        core.turn(|_| {});
        absent.push(core.shard.counters().deliveries.absent - before);
    }
    assert_eq!(absent.iter().sum::<u64>(), 160_000);
    assert!(absent.iter().all(|absent| *absent <= SLICE_UNITS as u64 / 4), "{absent:?}");
}

#[test]
fn pushes_for_a_peer_are_bounded_by_its_backlog() {
    let limits = Limits { mesh_backlog: 100, ..Limits::default() };
    let mut core = Core::new(2, limits, Logic::Embedded);
    let room = room_here(2);
    core.turn(|shard| {
        shard.handle_message(Message::JoinRoom { shard: ShardId(1), room: Arc::clone(&room) });
    });
    core.pass(ROOM_COUNT_MS);
    core.turn(|_| {});
    let work = core.turn(|shard| {
        for _ in 0..1_000 {
            let (room, push) = (Arc::clone(&room), push(5, b"x"));
            shard.handle_message(Message::PushRoom { call: CALL, room, push });
        }
    });
    // The other 900 are counted as dropped.
    let bound = Work { deliveries: 900, messages: 100, reports: 1_000, ..Work::default() };
    work.assert_within(bound, "1,000 pushes for one peer");
}

/// The messages of a turn fill no outbox whose client takes what it is sent, however long they are.
#[test]
fn a_burst_of_pushes_is_spread_over_turns() {
    const PUSHES: usize = 3_000;
    let outbox = |svr_proto, outbox_bytes| Limits { svr_proto, outbox_bytes, ..Limits::default() };
    let cases = [
        (Limits::default(), 100, MESSAGES_PER_TURN),
        (Limits::default(), 900, 214),
        (Limits::default(), 1_100, 176),
        (Limits::default(), 100_000, 2),
        (Limits::default(), 1 << 20, 1),
        (outbox(1, 1 << 20), 100, 1),
        (outbox(10, 1 << 20), 100, 5),
        (outbox(u16::MAX, 1 << 20), 100, MESSAGES_PER_TURN),
        (outbox(512, 4_000), 1_000, 1),
        (outbox(512, 1 << 30), 100_000, 2),
    ];
    for (limits, body, messages_max) in cases {
        let case = format!("{} pushes, {} bytes", limits.svr_proto, limits.outbox_bytes);
        let mut core = Core::with_members(1, limits.clone(), 3);
        core.turn(|_| {});
        let push = push(5, &vec![0; body]);
        let mut inbox = vec![Message::DeliverRoom { call: CALL, room: "r".into(), push }; PUSHES];
        while !inbox.is_empty() {
            let before = inbox.len();
            core.turn(|shard| {
                let mut budget = MessageBudget::new(&limits);
                while budget.is_left()
                    && let Some(message) = inbox.pop()
                {
                    budget.spend(&message);
                    shard.handle_message(message);
                }
            });
            let taken = before - inbox.len();
            assert!(taken == messages_max || inbox.is_empty(), "{case}: {taken} in one turn");
        }
        assert_eq!(core.shard.counters().deliveries.dropped_total(), 0, "{case}");
    }
}
