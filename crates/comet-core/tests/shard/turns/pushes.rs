//! Pushes: to many keys, to large rooms, to other shards, and in a burst.

use std::sync::Arc;

use comet_core::limits::{MESSAGES_PER_TURN, ROOM_COUNT_MS};
use comet_core::{Limits, LocalConnId, Logic, Message, MessageBudget, ShardId, TokenTime};

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
            let register = Message::Register { conn, token_at, user, key: Some(key.clone()) };
            shard.handle_message(register);
            shard.handle_message(Message::Claim { conn, token_at, user, seq: 1, key });
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
        // However many pushes wait, a connection has one transmit in flight.
        let sends = std::mem::take(&mut core.in_flight);
        let more = core.turn(|shard| (0..20).for_each(|_| shard.handle_message(message.clone())));
        let bound = Work { deliveries: 20 * load, reports: 20, ..Work::default() };
        more.assert_within(bound, case);
        core.in_flight = sends;
        let bound = Work { transmits: load, ..Work::default() };
        core.turn(|_| {}).assert_within(bound, case);
    }
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
