//! Many connections that begin or end at once, and one client with too many requests.

use std::sync::Arc;

use comet_core::limits::{
    CLOSED_EVENTS_MAX, EXPIRED_MAX, JOIN_MAX, ROOM_COUNT_MS, SLICE_UNITS, TRACE_EVENTS_MAX,
};
use comet_core::{
    Budget, ConnId, Hangup, Identity, Limits, Logic, Message, MessageClass, Millis, Shard, ShardId,
    Transport, home_of_room,
};
use comet_proto::op;

use crate::rig::{frame, push, room_at};

use super::counting::{CALL, Core, Work};

#[test]
fn each_token_costs_one_reply_and_one_message() {
    const COUNT: usize = 4_096;
    let load = COUNT as u64;
    let mut core = Core::new(2, Limits::default(), Logic::Embedded);
    core.connect(COUNT);
    let work = core.turn(|_| {});
    // One more message asks the home of the room, and is sent once for all members.
    let bound = Work { tokens: load, transmits: load, messages: load + 1, ..Work::default() };
    work.assert_within(bound, "4,096 tokens");
}

#[test]
fn tokens_of_closed_connections_are_not_looked_at() {
    const COUNT: usize = 4_096;
    let limits = Limits { handshake_ms: 1_000, ..Limits::default() };
    let mut core = Core::new(1, limits, Logic::Embedded);
    core.connect(COUNT);
    let hung_up: Vec<ConnId> = core.clients.drain(..COUNT / 2).collect();
    for conn in hung_up {
        core.shard.handle_hangup(conn, Hangup::Eof);
    }
    // The other connections timed out while their tokens waited.
    while core.shard.counters().handshakes > 0 {
        core.pass(100);
        core.shard.handle_time(Millis(core.now));
        core.shard.handle_deadlines(&mut Budget::slice());
    }
    assert_eq!(core.turn(|_| {}).tokens, 0);
}

#[test]
fn each_end_of_a_connection_costs_two_closes_and_two_messages() {
    const COUNT: usize = 4_096;
    let load = COUNT as u64;
    let mut core = Core::with_members(2, Limits::default(), COUNT);
    let clients = std::mem::take(&mut core.clients);
    core.turn(|_| {});
    let work = core.turn(|shard| {
        for conn in clients {
            shard.handle_hangup(conn, Hangup::Eof);
        }
    });
    let bound = Work {
        closings: load,
        closed_events: CLOSED_EVENTS_MAX as u64,
        // First our side is shut, and then both sides: nothing is left to send.
        closes: 2 * load,
        messages: 2 * load + 1,
        ..Work::default()
    };
    work.assert_within(bound, "4,096 hangups");
}

#[test]
fn tokens_that_expire_together_are_spread_over_turns() {
    const COUNT: usize = 100_000;
    let limits = Limits { handshakes: u32::MAX, ..Limits::default() };
    let mut core = Core::new(2, limits, Logic::Embedded);
    core.expires_in_ms = Some(60_000);
    core.slices = 1;
    core.connect(COUNT);
    core.turn(|_| {});
    core.pass(60_000);
    // Each close costs 32 units.
    let most = (SLICE_UNITS / 32 + 1) as u64;
    let mut closed = 0;
    let mut turns = 0;
    while closed < COUNT as u64 {
        let work = core.turn(|_| {});
        assert!(work.closings <= most, "{} closings in one turn", work.closings);
        closed += work.closings;
        turns += 1;
        assert!(closed == COUNT as u64 || core.shard.has_work());
    }
    // Other work of the shard has its share of the units.
    assert!(turns <= 2 * COUNT * 32 / SLICE_UNITS, "{turns} turns");
}

#[test]
fn one_client_costs_no_more_than_its_bounds() {
    struct Case {
        name: &'static str,
        limits: Limits,
        logic: Logic,
        load: fn(&mut Shard, ConnId),
        bound: Work,
    }
    let remote = Logic::Remote { renew_ms: (60_000, 60_000) };
    let close = Work { closings: 1, closed_events: 1, ..Work::default() };
    let cases = [
        Case {
            name: "10,000 heartbeats, of which 4 may wait for their reply",
            limits: Limits { cli_proto: 4, ..Limits::default() },
            logic: Logic::Embedded,
            load: |shard, conn| {
                shard.handle_recv(conn, &frame(op::HEARTBEAT, 1, b"").repeat(10_000));
                assert_eq!(shard.counters().heartbeats, 5);
            },
            bound: Work { transmits: 1, ..close },
        },
        Case {
            name: "1,000 messages for remote logic",
            limits: Limits::default(),
            logic: remote,
            load: |shard, conn| shard.handle_recv(conn, &frame(op::SEND, 1, b"").repeat(1_000)),
            bound: Work { reports: 1, ..Work::default() },
        },
        Case {
            name: "10,000 pushes",
            limits: Limits::default(),
            logic: Logic::Embedded,
            load: |shard, conn| {
                for _ in 0..10_000 {
                    let (conns, push) = (vec![conn.local()], push(5, &[0; 1_000]));
                    shard.handle_message(Message::DeliverConns { call: CALL, conns, push });
                }
                while shard.has_pushes() {
                    shard.handle_pushes(&mut Budget::slice(), |_| None);
                }
                while shard.has_crowds() {
                    shard.handle_crowds();
                }
                let queued = shard.counters().deliveries.queued;
                assert_eq!(queued, u64::from(Limits::default().svr_proto));
            },
            bound: Work { deliveries: 10_000, transmits: 1, reports: 10_000, ..Work::default() },
        },
        Case {
            name: "10,000 frames of a traced client",
            limits: Limits { trace_users: [1].into(), cli_proto: u16::MAX, ..Limits::default() },
            logic: Logic::Embedded,
            load: |shard, conn| shard.handle_recv(conn, &frame(op::SEND, 1, b"").repeat(10_000)),
            // The last event has the number of missed ones.
            bound: Work { transmits: 1, reports: TRACE_EVENTS_MAX as u64 + 1, ..Work::default() },
        },
    ];
    for Case { name, limits, logic, load, bound } in cases {
        let mut core = Core::new(1, limits, logic);
        core.connect(1);
        let conn = core.clients[0];
        core.turn(|shard| {
            if logic != Logic::Embedded {
                let answer = Ok(Identity { user: 1, key: Some("k".into()), ..Identity::default() });
                shard.handle_message(Message::Identified { conn, answer });
            }
        });
        core.turn(|_| {});
        core.turn(|shard| load(shard, conn)).assert_within(bound, name);
        assert!(core.longest_transmit <= JOIN_MAX, "{name}");
    }
}

/// A million heartbeats may have moved as many deadlines to one tick, and all of a stalled core's clients
/// may be late at once.
#[test]
fn deadlines_of_one_tick_are_spread_over_turns() {
    const COUNT: usize = 20_000;
    let limits = Limits { handshake_ms: 1_000, ..Limits::default() };
    let mut core = Core::new(1, limits, Logic::Embedded);
    core.slices = 1;
    for _ in 0..COUNT {
        core.shard.handle_accept(Transport::Tcp).expect("the shard is not full");
    }
    core.pass(1_050);
    let mut closings = Vec::new();
    while closings.iter().sum::<u64>() < COUNT as u64 {
        assert_eq!(core.shard.poll_timeout().map(|due| due.0 <= core.now), Some(true));
        closings.push(core.turn(|_| {}).closings);
    }
    assert!(closings.iter().all(|closed| *closed <= EXPIRED_MAX as u64), "{closings:?}");
}

/// The room's home answers once for all of these connections.
#[test]
fn connections_that_wait_for_one_room_are_answered_over_turns() {
    // A quarter of them have both homes here, and are live without an answer of the other shard.
    let mut core = Core::with_members(2, Limits::default(), 40_000);
    core.turn(|_| {});
    core.slices = 1;
    let clients: Vec<ConnId> = core.shard.live_conns().map(|live| live.conn).collect();
    let count = clients.len() as u64;
    assert!(count > 5_000);
    let mut rooms = (0..).map(|number| format!("room{number}"));
    let room = rooms.find(|room| home_of_room(room, 2).0 == 1).expect("one of a few");
    core.turn(|shard| {
        for conn in clients {
            shard.handle_recv(conn, &frame(op::CHANGE_ROOM, 2, room.as_bytes()));
        }
    });
    let room: Arc<str> = room.into();
    let joined = Message::RoomJoined { room: Arc::clone(&room), elsewhere: 0 };
    let mut answered = vec![core.turn(|shard| shard.handle_message(joined)).transmits];
    while core.shard.has_work() {
        answered.push(core.turn(|_| {}).transmits);
    }
    assert_eq!(answered.iter().sum::<u64>(), count);
    assert!(answered.iter().all(|answered| *answered <= 64 + 256), "{answered:?}");
    let message = Message::DeliverRoom { call: CALL, room, push: push(5, b"x") };
    core.slices = usize::MAX;
    let work = core.turn(|shard| shard.handle_message(message));
    assert_eq!(work.deliveries, count, "all of them are members");
}

/// A count that is due while connections wait is sent later, even if none of them enters.
#[test]
fn the_count_of_a_room_is_sent_when_no_connection_waits_for_the_room() {
    let mut core = Core::with_members(2, Limits::default(), 10_000);
    core.turn(|_| {});
    core.slices = 1;
    let clients: Vec<ConnId> = core.shard.live_conns().map(|live| live.conn).collect();
    let room: Arc<str> = room_at(1).into();
    core.turn(|shard| {
        for &conn in &clients {
            shard.handle_recv(conn, &frame(op::CHANGE_ROOM, 2, room.as_bytes()));
        }
    });
    let joined = Message::RoomJoined { room: Arc::clone(&room), elsewhere: 0 };
    let entered = core.turn(|shard| shard.handle_message(joined)).transmits as usize;
    assert!(entered < clients.len(), "others wait");
    core.pass(ROOM_COUNT_MS);
    // The connection that came last enters first.
    core.turn(|shard| {
        for &conn in &clients[..clients.len() - entered] {
            shard.handle_hangup(conn, Hangup::Eof);
        }
    });
    while core.shard.has_work() {
        core.turn(|_| {});
    }
    core.pass(ROOM_COUNT_MS);
    core.shard.handle_time(Millis(core.now));
    core.shard.handle_deadlines(&mut Budget::slice());
    let sent = std::iter::from_fn(|| core.shard.poll_message(ShardId(1), MessageClass::Directory));
    let mut counts = sent.filter_map(|message| match message {
        Message::RoomMembers { room: of, members, .. } if of == room => Some(members),
        _ => None,
    });
    assert_eq!(counts.next(), Some(entered as u32));
}

#[test]
fn a_changed_trace_list_is_applied_over_turns() {
    const COUNT: usize = 30_000;
    let mut core = Core::with_members(1, Limits::default(), COUNT);
    core.turn(|_| {});
    core.slices = 1;
    let limits = Limits { trace_users: [COUNT as i64].into(), ..Limits::default() };
    let configure = Message::Configure { limits: Arc::new(limits) };
    core.turn(|shard| shard.handle_message(configure));
    let mut turns = 0;
    while core.shard.has_work() {
        core.turn(|_| {});
        turns += 1;
    }
    assert!(turns >= COUNT / SLICE_UNITS, "{turns} turns");
    let last = core.clients[COUNT - 1];
    let work = core.turn(|shard| shard.handle_recv(last, &frame(op::HEARTBEAT, 1, b"")));
    assert_eq!(work.reports, 1, "the last connection is traced");
}

#[test]
fn timeouts_of_one_tick_give_a_bounded_number_of_log_events() {
    const COUNT: usize = 20_000;
    let load = COUNT as u64;
    let limits = Limits { handshake_ms: 1_000, ..Limits::default() };
    let mut core = Core::new(1, limits, Logic::Embedded);
    for _ in 0..COUNT {
        core.shard.handle_accept(Transport::Tcp).expect("the shard is not full");
    }
    core.pass(1_050);
    let work = core.turn(|_| {});
    let bound = Work {
        closings: load,
        closes: load,
        closed_events: CLOSED_EVENTS_MAX as u64,
        ..Work::default()
    };
    work.assert_within(bound, "20,000 handshake timeouts");
    assert_eq!(work.closings, load, "the counters have all of them");
}
