//! How much one turn of a driver may do. Work is counted, not timed: a turn is as long as the deliveries,
//! closings and items to poll that it adds up to.
//!
//! Where a bound equals the load of its case, the shard has no bound of its own there.

use std::num::NonZeroU32;
use std::sync::Arc;

use comet_core::limits::{
    CLOSED_EVENTS_MAX, JOIN_MAX, MESSAGES_PER_TURN, PACE_MS, PACED_MAX, ROOM_COUNT_MS,
    TRACE_EVENTS_MAX,
};
use comet_core::{
    Accepts, CallId, ConnId, Generation, Hangup, Identity, Limits, LocalConnId, Logic, Message,
    MessageBudget, Millis, Report, Settings, Shard, ShardId, Slot, Transport, home_of_room,
};
use comet_proto::op;

use crate::rig::{frame, push};

/// What one turn did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Work {
    /// Connections that pushes were offered to.
    deliveries: u64,
    /// Connections that were given a close reason.
    closings: u64,
    /// Items that were polled.
    tokens: u64,
    transmits: u64,
    closed_events: u64,
    closes: u64,
    messages: u64,
    reports: u64,
}

impl Work {
    fn counts(self) -> [(&'static str, u64); 8] {
        [
            ("deliveries", self.deliveries),
            ("closings", self.closings),
            ("tokens", self.tokens),
            ("transmits", self.transmits),
            ("closed events", self.closed_events),
            ("closes", self.closes),
            ("messages", self.messages),
            ("reports", self.reports),
        ]
    }

    #[track_caller]
    fn assert_within(self, bound: Self, case: &str) {
        for ((what, done), (_, most)) in self.counts().into_iter().zip(bound.counts()) {
            assert!(done <= most, "{case}: {done} {what} in one turn, of {most} allowed");
        }
    }
}

/// A shard and a driver that counts.
struct Core {
    shard: Shard,
    shards: u16,
    now: u64,
    clients: Vec<ConnId>,
    in_flight: Vec<(ConnId, usize)>,
    longest_transmit: usize,
}

impl Core {
    fn new(shards: u16, limits: Limits, logic: Logic) -> Self {
        let limits = Arc::new(limits);
        let settings = Settings { shard: ShardId(0), shards, limits, logic, hash_seed: 7 };
        Self {
            shard: Shard::new(&settings, Millis(0)),
            shards,
            now: 0,
            clients: Vec::new(),
            in_flight: Vec::new(),
            longest_transmit: 0,
        }
    }

    /// A shard with `count` clients in the room `r`, each with a key of its own. Other shards answer nothing.
    fn with_members(shards: u16, limits: Limits, count: usize) -> Self {
        let mut core = Self::new(shards, limits, Logic::Embedded);
        core.connect(count);
        core.turn(|_| {});
        core
    }

    /// Connects clients that have sent their tokens.
    fn connect(&mut self, count: usize) {
        let token = frame(op::AUTH, 1, b"");
        for _ in 0..count {
            let conn = self.shard.handle_accept(Transport::Tcp).expect("the shard is not full");
            self.shard.handle_recv(conn, &token);
            self.clients.push(conn);
        }
    }

    /// One turn of a driver that has no limits of its own: completions, what `input` does, deadlines, polls.
    fn turn(&mut self, input: impl FnOnce(&mut Shard)) -> Work {
        let shard = &mut self.shard;
        let before = shard.counters();
        let mut work = Work::default();
        shard.handle_time(Millis(self.now));
        for (conn, bytes) in self.in_flight.drain(..) {
            shard.handle_sent(conn, bytes);
        }
        input(shard);
        shard.handle_deadlines();
        while let Some(request) = shard.poll_auth() {
            work.tokens += 1;
            let (user, key) = (i64::from(request.conn.slot.0) + 1, request.conn.slot.to_string());
            shard.handle_auth(
                request.conn,
                Ok(Identity {
                    user,
                    key: Some(key.into()),
                    room: Some("r".into()),
                    accepts: Accepts::All,
                    heartbeat_ms: None,
                }),
            );
        }
        while let Some(transmit) = shard.poll_transmit() {
            work.transmits += 1;
            self.longest_transmit = self.longest_transmit.max(transmit.bytes.len());
            self.in_flight.push((transmit.conn, transmit.bytes.len()));
        }
        while shard.poll_closed().is_some() {
            work.closed_events += 1;
        }
        while shard.poll_close().is_some() {
            work.closes += 1;
        }
        for peer in (1..self.shards).map(ShardId) {
            while shard.poll_message(peer).is_some() {
                work.messages += 1;
            }
        }
        while shard.poll_report().is_some() {
            work.reports += 1;
        }
        let after = shard.counters();
        work.deliveries = after.deliveries.matched - before.deliveries.matched;
        work.closings = after.closed.iter().sum::<u64>() - before.closed.iter().sum::<u64>();
        work
    }

    fn pass(&mut self, millis: u64) {
        self.now += millis;
    }
}

const CALL: CallId = CallId(1);

/// A room whose home is shard 0.
fn room_here(shards: u16) -> Arc<str> {
    let mut rooms = (0..).map(|number| format!("room{number}"));
    rooms.find(|room| home_of_room(room, shards).0 == 0).expect("one of a few").into()
}

fn remote_conn(shard: u16, slot: u32) -> ConnId {
    ConnId { shard: ShardId(shard), slot: Slot(slot), generation: Generation(0) }
}

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
        // First our side, then both: nothing is left to send.
        closes: 2 * load,
        messages: 2 * load + 1,
        ..Work::default()
    };
    work.assert_within(bound, "4,096 hangups");
}

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
            shard.handle_message(Message::Register { conn, user: 42, key: Some(key(number)) });
            shard.handle_message(Message::Claim { conn, user: 42, seq: 1, key: key(number) });
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
            // The last one says how many were missed.
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

/// The messages of a turn fill no outbox whose client takes what it is sent, while they can be joined.
#[test]
fn a_burst_of_pushes_is_spread_over_turns() {
    const PUSHES: usize = 2_000;
    let outbox = |svr_proto, outbox_bytes| Limits { svr_proto, outbox_bytes, ..Limits::default() };
    let cases = [
        (Limits::default(), 100, MESSAGES_PER_TURN),
        (Limits::default(), 1_000, MESSAGES_PER_TURN),
        (Limits::default(), 100_000, 6),
        (outbox(1, 1 << 20), 100, 1),
        (outbox(10, 1 << 20), 100, 5),
        (outbox(u16::MAX, 1 << 20), 100, MESSAGES_PER_TURN),
        (outbox(512, 4_000), 1_000, 1),
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
        // Beyond the size of a joined buffer one frame leaves in a turn, and the outbox does fill.
        if messages_max * body < JOIN_MAX {
            assert_eq!(core.shard.counters().deliveries.dropped_total(), 0, "{case}");
        }
    }
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
        transmits: load,
        closed_events: CLOSED_EVENTS_MAX as u64,
        ..Work::default()
    };
    work.assert_within(bound, "20,000 handshake timeouts");
    assert_eq!(work.closings, load, "the counters have all of them");
}

#[test]
fn a_drain_closes_its_share_every_step() {
    const COUNT: u64 = 300_000;
    const OVER_MS: u32 = 60_000;
    let share = COUNT * PACE_MS / u64::from(OVER_MS);
    let mut core = Core::new(1, Limits::default(), Logic::Embedded);
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
    core.pass(ROOM_COUNT_MS);
    core.turn(|_| {});
    let bound = Work { messages: load, ..Work::default() };
    for _ in 0..3 {
        core.pass(ROOM_COUNT_MS);
        // However often a count changes within a step.
        let work = core.turn(|shard| (1..10).for_each(|members| change(shard, members)));
        work.assert_within(bound, "changed counts");
        core.pass(ROOM_COUNT_MS / 2);
        let work = core.turn(|shard| change(shard, 1));
        assert_eq!(work.messages, 0, "within the step");
        core.pass(ROOM_COUNT_MS / 2);
        core.turn(|_| {}).assert_within(bound, "the last change");
    }
    // The peer takes nothing for some steps: the counts of one step wait for it, and no more.
    for members in 20..25 {
        change(&mut core.shard, members);
        core.pass(ROOM_COUNT_MS);
        core.shard.handle_time(Millis(core.now));
        core.shard.handle_deadlines();
    }
    core.turn(|_| {}).assert_within(bound, "counts that waited");
}
