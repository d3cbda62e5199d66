//! Two shards with arbitrary events, in the order of calls that `Shard` allows: the ledger balances after every
//! turn, and at the end nothing is left.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use comet_core::{
    Budget, CallId, ConnId, Counters, Denied, Hangup, Identity, Limits, Logic, Message,
    MessageClass, Millis, OperationFilter, Push, Report, Settings, Shard, ShardId, SlowConsumer,
    SocketShutdown, Transport, home_of_key, home_of_room, home_of_user,
};
use comet_proto::{Encoded, Frame, op};

const SHARDS: u16 = 2;
const UPGRADE: &[u8] = b"GET /sub HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const OPERATIONS: [i32; 7] =
    [op::AUTH, op::HEARTBEAT, op::SEND, op::CHANGE_ROOM, op::SUBSCRIBE, op::UNSUBSCRIBE, 1000];

pub(crate) fn check(input: &[u8]) {
    let mut world = World::new(input);
    while !world.input.is_empty() {
        world.step();
        world.balance();
    }
    world.end();
}

/// The socket of a connection.
#[derive(Default)]
struct Wire {
    /// Bytes of the transmit under way.
    in_flight: Option<usize>,
    has_ended: bool,
    shut: Option<SocketShutdown>,
}

struct World<'input> {
    input: &'input [u8],
    now: u64,
    limits: Limits,
    shards: Vec<Shard>,
    /// By shard: messages on their way to it.
    inboxes: Vec<VecDeque<Message>>,
    wires: BTreeMap<ConnId, Wire>,
    /// By shard: the bytes that its sockets took.
    taken: Vec<u64>,
    last_call: u64,
    is_remote: bool,
}

impl<'input> World<'input> {
    fn new(mut input: &'input [u8]) -> Self {
        let choice = input.split_off_first().copied().unwrap_or_default();
        let limits = Limits {
            body_max: 256,
            head_max: 512,
            svr_proto: 1 + u16::from(choice & 3),
            outbox_bytes: 4_000,
            cli_proto: 16,
            slow_consumer: [
                SlowConsumer::DropNewest,
                SlowConsumer::DropOldest,
                SlowConsumer::Close,
                SlowConsumer::DropOldest,
            ][usize::from(choice >> 2 & 3)],
            filter_rooms: choice & 16 > 0,
            goodbye: choice & 128 > 0,
            mesh_backlog: if choice & 32 > 0 { 1 } else { 1_000 },
            handshake_ms: 1_000,
            write_ms: 500,
            heartbeat_ms: 2_000,
            linger_ms: 200,
            buckets: 1,
            ..Limits::default()
        };
        let is_remote = choice & 64 > 0;
        let settings = |shard| Settings {
            shard: ShardId(shard),
            shards: SHARDS,
            limits: Arc::new(limits.clone()),
            logic: if is_remote { Logic::Remote { renew_ms: (100, 500) } } else { Logic::Embedded },
            hash_seed: 7,
            has_other_hosts: false,
        };
        Self {
            input,
            now: 0,
            shards: (0..SHARDS).map(|shard| Shard::new(&settings(shard), Millis(0))).collect(),
            inboxes: vec![VecDeque::new(); SHARDS.into()],
            wires: BTreeMap::new(),
            taken: vec![0; SHARDS.into()],
            last_call: 0,
            limits,
            is_remote,
        }
    }

    fn byte(&mut self) -> u8 {
        self.input.split_off_first().copied().unwrap_or_default()
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn bytes(&mut self) -> &'input [u8] {
        let length = usize::from(self.byte()).min(self.input.len());
        self.input.split_off(..length).expect("no longer than the rest")
    }

    fn conn(&mut self) -> Option<ConnId> {
        let index = self.byte();
        let count = self.wires.len().max(1);
        self.wires.keys().nth(usize::from(index) % count).copied()
    }

    fn shard(&mut self, conn: ConnId) -> &mut Shard {
        &mut self.shards[usize::from(conn.shard.0)]
    }

    /// One event of the fuzzer.
    fn step(&mut self) {
        match self.below(12) {
            0 => self.now += 20 * u64::from(self.byte()),
            1 => {
                let (shard, transport) = (self.below(2), self.below(2));
                let transport = [Transport::Tcp, Transport::WebSocket][transport];
                let conn = self.shards[shard].handle_accept(transport);
                self.wires.extend(conn.map(|conn| (conn, Wire::default())));
            }
            2 => {
                let (conn, bytes) = (self.conn(), self.bytes());
                self.receive(conn, bytes);
            }
            3 => {
                let (conn, operation) = (self.conn(), OPERATIONS[self.below(OPERATIONS.len())]);
                let frame = Frame { version: 1, operation, sequence: 1, body: self.bytes() };
                self.receive(conn, Encoded::frame(&frame).for_tcp());
            }
            4 => {
                let conn = self.conn();
                self.receive(conn, UPGRADE);
            }
            5 => {
                let (conn, taken) = (self.conn(), self.byte());
                self.sent(conn, usize::from(taken) + 1);
            }
            6 => {
                let conn = self.conn();
                self.fail_send(conn);
            }
            7 => {
                let conn = self.conn();
                self.hang_up(conn);
            }
            8 => self.push(),
            9 => {
                for _ in 0..self.byte() {
                    self.deliver();
                }
            }
            10 => self.configure(),
            _ => {
                let shard = self.below(2);
                self.turn(shard);
            }
        }
    }

    fn receive(&mut self, conn: Option<ConnId>, bytes: &[u8]) {
        let Some(conn) = conn.filter(|conn| !self.wires[conn].has_ended) else { return };
        if !bytes.is_empty() {
            self.shard(conn).handle_recv(conn, bytes);
        }
    }

    fn sent(&mut self, conn: Option<ConnId>, most: usize) {
        let Some(conn) = conn else { return };
        let wire = self.wires.get_mut(&conn).expect("picked from the wires");
        let Some(length) = wire.in_flight.take() else { return };
        let taken = length.min(most);
        self.taken[usize::from(conn.shard.0)] += taken as u64;
        self.shard(conn).handle_sent(conn, taken);
    }

    fn fail_send(&mut self, conn: Option<ConnId>) {
        let Some(conn) = conn else { return };
        let wire = self.wires.get_mut(&conn).expect("picked from the wires");
        if wire.in_flight.take().is_some() {
            self.shard(conn).handle_send_failed(conn, Hangup::Error(32));
        }
    }

    fn hang_up(&mut self, conn: Option<ConnId>) {
        let Some(conn) = conn else { return };
        let wire = self.wires.get_mut(&conn).expect("picked from the wires");
        if !std::mem::replace(&mut wire.has_ended, true) {
            self.shard(conn).handle_hangup(conn, Hangup::Eof);
        }
    }

    fn push(&mut self) {
        self.last_call += 1;
        let (call, kind, name) = (CallId(self.last_call), self.below(4), self.byte() % 8);
        let body = self.bytes();
        let frame = Frame { version: 1, operation: 1000, sequence: 0, body };
        let push = Push::new(1000, Encoded::frame(&frame));
        let (name, user) = (format!("{name}"), i64::from(name));
        let (home, message) = match kind {
            0 => {
                let keys = vec![name.as_str().into()];
                (home_of_key(&name, SHARDS), Message::PushKeys { call, keys, push })
            }
            1 => (home_of_user(user, SHARDS), Message::PushUsers { call, users: vec![user], push }),
            2 => {
                let room = name.as_str().into();
                (home_of_room(&name, SHARDS), Message::PushRoom { call, room, push })
            }
            _ => (ShardId(user as u16 % SHARDS), Message::Broadcast { call, push, speed: None }),
        };
        self.inboxes[usize::from(home.0)].push_back(message);
    }

    fn configure(&mut self) {
        let choice = self.byte();
        self.limits.svr_proto = 1 + u16::from(choice & 7);
        self.limits.heartbeat_ms = 500 + 10 * u32::from(choice);
        let limits = Arc::new(self.limits.clone());
        for inbox in &mut self.inboxes {
            inbox.push_back(Message::Configure { limits: Arc::clone(&limits) });
        }
    }

    /// Hands over the next message of each inbox; returns whether there was any.
    fn deliver(&mut self) -> bool {
        let mut has_delivered = false;
        for (shard, inbox) in self.shards.iter_mut().zip(&mut self.inboxes) {
            if let Some(message) = inbox.pop_front() {
                shard.handle_message(message);
                has_delivered = true;
            }
        }
        has_delivered
    }

    /// The work of a driver after completions: deadlines, logic, and all output.
    fn turn(&mut self, index: usize) {
        let (now, has_backlog) = (Millis(self.now), self.byte() & 1 > 0);
        let shard = &mut self.shards[index];
        shard.handle_time(now);
        shard.postpone_overdue(|_| has_backlog);
        shard.handle_deadlines(&mut Budget::slice());
        while shard.has_work() || shard.has_pushes() || shard.has_crowds() {
            shard.handle_time(now);
            shard.handle_deadlines(&mut Budget::slice());
            shard.handle_pushes(&mut Budget::slice(), |_| None);
            shard.handle_crowds();
        }
        while let Some(request) = shard.poll_auth() {
            shard.handle_auth(request.conn, identity(&request.token));
        }
        while let Some(transmit) = shard.poll_transmit() {
            let wire = self.wires.get_mut(&transmit.conn).expect("a transmit of a connection");
            assert!(wire.shut.is_none());
            assert!(transmit.slices.clone().all(|slice| !slice.is_empty()));
            let former = wire.in_flight.replace(transmit.slices.map(<[u8]>::len).sum());
            assert!(former.is_none(), "one transmit at a time");
        }
        while shard.poll_closed().is_some() {}
        while let Some((conn, how)) = shard.poll_close() {
            let wire = self.wires.get_mut(&conn).expect("a close of a connection");
            assert_ne!(wire.shut.replace(how), Some(SocketShutdown::Both), "closed once");
        }
        let peer = ShardId(1 - index as u16);
        for class in MessageClass::ALL {
            while let Some(message) = shard.poll_message(peer, class) {
                self.inboxes[usize::from(peer.0)].push_back(message);
            }
        }
        while let Some(report) = shard.poll_report() {
            let answer = match report {
                Report::Identify(asked) => {
                    let (conn, answer) = (asked.conn, identity(&asked.token));
                    Message::Identified { conn, answer }
                }
                Report::Receive { conn, .. } => Message::Receipt { conn, outcome: Ok(()) },
                Report::Tally { tally, .. } | Report::PartialTally { tally, .. } => {
                    assert_eq!(tally.matched, tally.queued + tally.dropped_total());
                    continue;
                }
                _ => continue,
            };
            assert!(self.is_remote || matches!(answer, Message::Receipt { .. }));
            self.inboxes[index].push_back(answer);
        }
        self.wires.retain(|&conn, wire| {
            let is_gone = wire.shut == Some(SocketShutdown::Both) && wire.in_flight.is_none();
            let is_gone = is_gone && usize::from(conn.shard.0) == index;
            if is_gone {
                shard.handle_gone(conn);
            }
            !is_gone
        });
    }

    /// The invariants at any moment.
    fn balance(&self) {
        for (index, shard) in self.shards.iter().enumerate() {
            let counters = shard.counters();
            let Counters { deliveries, sent, lost, superseded, waiting, .. } = counters;
            assert_eq!(deliveries.matched, deliveries.queued + deliveries.dropped_total());
            assert_eq!(deliveries.queued, sent + lost + superseded + waiting);
            assert_eq!(counters.bytes_out, self.taken[index]);
            let here = |conn: &&ConnId| usize::from(conn.shard.0) == index;
            assert_eq!(counters.connections, self.wires.keys().filter(here).count() as u64);
            assert!(counters.live <= counters.connections);
        }
    }

    /// Every client leaves, and all work under way ends.
    fn end(&mut self) {
        self.input = &[];
        for conn in self.wires.keys().copied().collect::<Vec<_>>() {
            self.hang_up(Some(conn));
        }
        // Room counts and retained entries need some steps of 200 ms.
        for _ in 0..60 {
            self.now += 200;
            for index in 0..self.shards.len() {
                self.turn(index);
            }
            for conn in self.wires.keys().copied().collect::<Vec<_>>() {
                self.sent(Some(conn), usize::MAX);
            }
            while self.deliver() {}
        }
        self.balance();
        for shard in &self.shards {
            let counters = shard.counters();
            let Counters { connections, live, rooms, users, keys, .. } = counters;
            let Counters { waiting, waiting_bytes, .. } = counters;
            let left = [connections, live, rooms, users, keys, waiting, waiting_bytes];
            assert_eq!(left, [0; 7], "{counters:?}");
        }
    }
}

/// The user, key and room of a token, derived from its bytes; an empty token is refused.
fn identity(token: &[u8]) -> Result<Identity, Denied> {
    let digit = |at: usize| token.get(at).map(|byte| byte % 8);
    let name = |at| digit(at).filter(|digit| *digit > 0).map(|digit| digit.to_string());
    Ok(Identity {
        user: i64::from(digit(0).ok_or_else(|| Denied::refused("no such token".to_owned()))?),
        key: name(1).map(Into::into),
        room: name(2).map(Into::into),
        accepts: OperationFilter::All,
        heartbeat_ms: None,
        expires_in_ms: None,
        rooms: Box::default(),
    })
}
