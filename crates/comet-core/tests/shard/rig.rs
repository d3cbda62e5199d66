//! A few shards with plain queues for sockets and mesh, and a clock that the test moves.

mod upgrade;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use comet_core::{
    AuthRequest, Budget, CallId, CloseReason, ClosedEvent, ConnId, Denied, Hangup, Identity,
    Limits, Logic, Message, MessageBudget, MessageClass, Millis, OperationFilter, Push, Report,
    Settings, Shard, ShardId, SocketShutdown, Tally, Transport, home_of_key, home_of_room,
    home_of_user,
};
use comet_proto::{Encoded, Frame, op};

use crate::callers::CallerWires;

/// Opens a WebSocket at the default path; the key is the example of RFC 6455 1.3.
pub(crate) const UPGRADE: &[u8] = b"GET /sub HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[derive(Default)]
struct Wire {
    output: Vec<u8>,
    in_flight: Option<Vec<u8>>,
    /// How many more bytes the socket takes; `None`: any number.
    window: Option<usize>,
    shut: Option<SocketShutdown>,
}

pub(crate) struct Rig {
    pub(crate) shards: Vec<Shard>,
    pub(crate) reports: Vec<Report>,
    /// Pairs of shards between which messages stay in their queue.
    pub(crate) held: BTreeSet<(u16, u16)>,
    /// Shards read no input of clients, and neither do those of the next process.
    holds_input: bool,
    /// Addresses of the clients that have one.
    pub(crate) addresses: BTreeMap<ConnId, IpAddr>,
    now: u64,
    settings: Settings,
    wires: BTreeMap<ConnId, Wire>,
    closed: BTreeMap<ConnId, ClosedEvent>,
    last_call: u64,
    pub(crate) callers: CallerWires,
    /// In a hand-over each driver keeps this many bytes of each send sealed; `None`: it takes all sends back.
    pub(crate) sealed: Option<usize>,
}

impl Rig {
    pub(crate) fn new(shards: u16, limits: Limits) -> Self {
        Self::with_logic(shards, limits, Logic::Embedded)
    }

    /// Clients speak protocol 1 and get the close notice nevertheless, so tests see it on both transports.
    pub(crate) fn with_logic(shards: u16, limits: Limits, logic: Logic) -> Self {
        Self::start(shards, Limits { goodbye: true, ..limits }, logic, false)
    }

    /// The process of the next upgrade has this logic.
    pub(crate) fn set_logic(&mut self, logic: Logic) {
        self.settings.logic = logic;
    }

    /// As goim: clients of protocol 1 get no close notice.
    pub(crate) fn without_goodbye(shards: u16) -> Self {
        Self::start(shards, Limits::default(), Logic::Embedded, false)
    }

    /// Homes report the rooms with members on this host.
    pub(crate) fn reporting_rooms(shards: u16) -> Self {
        Self::reporting_rooms_with(shards, Limits::default())
    }

    pub(crate) fn reporting_rooms_with(shards: u16, limits: Limits) -> Self {
        Self::start(shards, limits, Logic::Embedded, true)
    }

    fn start(shards: u16, limits: Limits, logic: Logic, has_other_hosts: bool) -> Self {
        let limits = Arc::new(limits);
        let settings =
            Settings { shard: ShardId(0), shards, limits, logic, hash_seed: 7, has_other_hosts };
        Self {
            shards: shards_of(&settings, Millis(0)),
            reports: Vec::new(),
            held: BTreeSet::new(),
            holds_input: false,
            addresses: BTreeMap::new(),
            now: 0,
            settings,
            wires: BTreeMap::new(),
            closed: BTreeMap::new(),
            last_call: 0,
            callers: CallerWires::default(),
            sealed: None,
        }
    }

    // ---- clients -------------------------------------------------------------------------------

    pub(crate) fn connect(&mut self, shard: u16, transport: Transport) -> ConnId {
        let conn = self.shards[usize::from(shard)].handle_accept(transport).expect("has room");
        self.wires.insert(conn, Wire::default());
        conn
    }

    /// A TCP client that has read the reply to its token; see [`identity`] for the token.
    pub(crate) fn join(&mut self, shard: u16, token: &str) -> ConnId {
        let conn = self.connect(shard, Transport::Tcp);
        self.feed(conn, &frame(op::AUTH, 1, token.as_bytes()));
        assert_eq!(self.take(conn), frame(op::AUTH_REPLY, 1, b""), "{token}");
        conn
    }

    pub(crate) fn feed(&mut self, conn: ConnId, bytes: &[u8]) {
        self.shard(conn).handle_recv(conn, bytes);
        self.run();
    }

    /// Sends a request; returns the answer to the client.
    pub(crate) fn ask(&mut self, conn: ConnId, request: &[u8]) -> Vec<u8> {
        self.feed(conn, request);
        self.take(conn)
    }

    /// The bytes sent to the client since the last call.
    pub(crate) fn take(&mut self, conn: ConnId) -> Vec<u8> {
        self.wires.get_mut(&conn).map(|wire| std::mem::take(&mut wire.output)).unwrap_or_default()
    }

    /// From now on the client's kernel takes `window` bytes more.
    pub(crate) fn allow(&mut self, conn: ConnId, window: Option<usize>) {
        self.wires.get_mut(&conn).expect("connected").window = window;
        self.run();
    }

    pub(crate) fn hang_up(&mut self, conn: ConnId) {
        self.end(conn, Hangup::Eof);
    }

    pub(crate) fn end(&mut self, conn: ConnId, how: Hangup) {
        self.shard(conn).handle_hangup(conn, how);
        self.run();
    }

    /// Cuts the send in flight after `bytes`, and hangs up before it can be resumed.
    pub(crate) fn hang_up_amid(&mut self, conn: ConnId, bytes: usize) {
        let wire = self.wires.get_mut(&conn).expect("connected");
        assert!(wire.in_flight.take().is_some_and(|sending| bytes < sending.len()));
        self.shard(conn).handle_sent(conn, bytes);
        self.hang_up(conn);
    }

    /// Why the connection was closed.
    ///
    /// # Panics
    /// If the connection is not closed.
    pub(crate) fn reason(&self, conn: ConnId) -> CloseReason {
        self.closed.get(&conn).map(|event| event.reason).expect("closed")
    }

    pub(crate) fn is_closed(&self, conn: ConnId) -> bool {
        self.closed.contains_key(&conn)
    }

    /// Which sides of its socket are shut.
    pub(crate) fn shut(&self, conn: ConnId) -> Option<SocketShutdown> {
        self.wires.get(&conn).map_or(Some(SocketShutdown::Both), |wire| wire.shut)
    }

    // ---- control -------------------------------------------------------------------------------

    /// Pushes to keys, each by way of its home, in the order given.
    pub(crate) fn push_keys(&mut self, keys: &[&str], operation: i32, body: &[u8]) -> Tally {
        let call = self.call();
        let push = push(operation, body);
        let shards = self.shards.len() as u16;
        for home in (0..shards).map(ShardId) {
            let here = keys.iter().filter(|key| home_of_key(key, shards) == home);
            let keys: Vec<Box<str>> = here.map(|key| (*key).into()).collect();
            let push = push.clone();
            self.send(home, Message::PushKeys { call, keys, push });
        }
        self.tally(call)
    }

    pub(crate) fn push_user(&mut self, user: i64, operation: i32, body: &[u8]) -> Tally {
        let call = self.call();
        let home = home_of_user(user, self.shards.len() as u16);
        let push = push(operation, body);
        self.send(home, Message::PushUsers { call, users: vec![user], push });
        self.tally(call)
    }

    pub(crate) fn push_room(&mut self, room: &str, operation: i32, body: &[u8]) -> Tally {
        let call = self.call();
        let home = home_of_room(room, self.shards.len() as u16);
        self.send(home, Message::PushRoom { call, room: room.into(), push: push(operation, body) });
        self.tally(call)
    }

    pub(crate) fn push_all(&mut self, operation: i32, body: &[u8], speed: Option<u32>) -> Tally {
        let call = self.call();
        let (push, speed) = (push(operation, body), speed.and_then(NonZeroU32::new));
        for shard in (0..self.shards.len() as u16).map(ShardId) {
            self.send(shard, Message::Broadcast { call, push: push.clone(), speed });
        }
        self.tally(call)
    }

    pub(crate) fn send(&mut self, shard: ShardId, message: Message) {
        self.shards[usize::from(shard.0)].handle_message(message);
        self.run();
    }

    /// The same message to every shard.
    pub(crate) fn send_all(&mut self, message: &Message) {
        for shard in (0..self.shards.len() as u16).map(ShardId) {
            self.send(shard, message.clone());
        }
    }

    /// Remote logic answers the token of `conn` as [`identity`] does.
    pub(crate) fn admit(&mut self, conn: ConnId) {
        let mine =
            |report: &Report| matches!(report, Report::Identify(asked) if asked.conn == conn);
        let at = self.reports.iter().position(mine).expect("logic was asked");
        let Report::Identify(AuthRequest { token, .. }) = self.reports.remove(at) else {
            unreachable!("looked at above")
        };
        let answer = identity(&token).map_err(Denied::refused);
        self.send(conn.shard, Message::Identified { conn, answer });
    }

    /// The reports to control since the last call.
    pub(crate) fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    /// The sum of the tallies of `call`.
    pub(crate) fn tally(&self, call: CallId) -> Tally {
        let mut sum = Tally::default();
        for report in &self.reports {
            if let Report::Tally { call: of, tally, .. }
            | Report::PartialTally { call: of, tally, .. } = report
                && *of == call
            {
                sum += *tally;
            }
        }
        sum
    }

    pub(crate) fn call(&mut self) -> CallId {
        self.last_call += 1;
        CallId(self.last_call)
    }

    // ---- time and the driver -------------------------------------------------------------------

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Lets `millis` pass. Each shard is called when its timeout is over, and not before.
    pub(crate) fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        loop {
            let due = self.shards.iter().filter_map(Shard::poll_timeout).min();
            let next = due.map_or(end, |due| due.0.max(self.now + 1).min(end));
            self.now = next;
            for shard in &mut self.shards {
                shard.handle_time(Millis(next));
                shard.handle_deadlines(&mut Budget::slice());
            }
            self.run();
            if next == end {
                return;
            }
        }
    }

    /// Lets `millis` pass in which no shard is called, and then begins a turn of each.
    pub(crate) fn stall(&mut self, millis: u64) {
        self.now += millis;
        for shard in &mut self.shards {
            shard.handle_time(Millis(self.now));
        }
    }

    /// Has each shard handle its deadlines, and the drivers do the rest of the turn.
    pub(crate) fn end_turn(&mut self) {
        for shard in &mut self.shards {
            shard.handle_deadlines(&mut Budget::slice());
        }
        self.run();
    }

    /// Runs the drivers until nothing moves.
    pub(crate) fn run(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for index in 0..self.shards.len() {
                moved |= self.turn(index);
            }
        }
    }

    fn turn(&mut self, index: usize) -> bool {
        let mut moved = self.callers.serve(&mut self.shards[index]);
        let shard = &mut self.shards[index];
        let mut windows = MessageBudget::new(shard.limits());
        while shard.has_pushes() || shard.end_due_window(&mut windows) {
            shard.handle_pushes(&mut Budget::slice(), |conn| self.addresses.get(&conn).copied());
        }
        while shard.has_crowds() {
            shard.handle_crowds();
        }
        while shard.has_work() {
            shard.handle_time(Millis(self.now));
            shard.handle_deadlines(&mut Budget::slice());
            moved = true;
        }
        while let Some(request) = shard.poll_auth() {
            shard.handle_auth(request.conn, identity(&request.token).map_err(Denied::refused));
            moved = true;
        }
        while let Some(transmit) = shard.poll_transmit() {
            let wire =
                self.wires.get_mut(&transmit.conn).expect("a transmit of a known connection");
            assert!(wire.in_flight.is_none() && wire.shut.is_none());
            assert!(transmit.slices.clone().all(|slice| !slice.is_empty()));
            wire.in_flight = Some(transmit.slices.collect::<Vec<_>>().concat());
        }
        while let Some((conn, how)) = shard.poll_close() {
            self.wires.get_mut(&conn).expect("a close of a known connection").shut = Some(how);
        }
        while let Some(event) = shard.poll_closed() {
            assert!(self.closed.insert(event.conn, event).is_none(), "closed once");
        }
        self.reports.extend(std::iter::from_fn(|| shard.poll_report()));
        moved |= self.complete_sends(index);
        for peer in (0..self.shards.len()).filter(|peer| *peer != index) {
            if self.held.contains(&(index as u16, peer as u16)) {
                continue;
            }
            for class in MessageClass::ALL {
                let to = ShardId(peer as u16);
                while let Some(message) = self.shards[index].poll_message(to, class) {
                    self.shards[peer].handle_message(message);
                    moved = true;
                }
            }
        }
        moved
    }

    fn complete_sends(&mut self, index: usize) -> bool {
        let shard = &mut self.shards[index];
        let mut moved = false;
        let mine = |conn: &ConnId| usize::from(conn.shard.0) == index;
        for (&conn, wire) in self.wires.iter_mut().filter(|(conn, _)| mine(conn)) {
            let Some(bytes) = &wire.in_flight else { continue };
            let taken = bytes.len().min(wire.window.unwrap_or(usize::MAX));
            if taken > 0 {
                wire.output.extend(&bytes[..taken]);
                wire.window = wire.window.map(|window| window - taken);
                shard.handle_sent(conn, taken);
            } else if wire.shut == Some(SocketShutdown::Both) {
                shard.handle_send_failed(conn, Hangup::Cut(32));
            } else {
                continue;
            }
            wire.in_flight = None;
            moved = true;
        }
        let gone =
            |wire: &Wire| wire.shut == Some(SocketShutdown::Both) && wire.in_flight.is_none();
        self.wires.retain(|conn, wire| {
            let is_over = mine(conn) && gone(wire) && wire.output.is_empty();
            if is_over {
                shard.handle_gone(*conn);
                moved = true;
            }
            !is_over
        });
        moved
    }

    fn shard(&mut self, conn: ConnId) -> &mut Shard {
        &mut self.shards[usize::from(conn.shard.0)]
    }
}

fn shards_of(settings: &Settings, now: Millis) -> Vec<Shard> {
    let shards = (0..settings.shards).map(ShardId);
    shards.map(|shard| Shard::new(&Settings { shard, ..settings.clone() }, now)).collect()
}

pub(crate) fn frame(operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + body.len() as u32).to_be_bytes().to_vec();
    bytes.extend([0, 16, 0, 1]);
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A frame of protocol 2.
pub(crate) fn frame_2(operation: i32, sequence: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = frame(operation, sequence, body);
    bytes[7] = 2;
    bytes
}

/// A WebSocket frame of a client, with the example mask of RFC 6455 5.7. The payload is shorter than 64 KiB.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = header(first, 0x80, payload);
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A WebSocket frame of the server. The payload is shorter than 64 KiB.
pub(crate) fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    [&header(first, 0, payload), payload].concat()
}

fn header(first: u8, mask_bit: u8, payload: &[u8]) -> Vec<u8> {
    match u16::try_from(payload.len()).expect("shorter than 64 KiB") {
        length @ 0..126 => vec![first, mask_bit | length as u8],
        length => [&[first, mask_bit | 126], &length.to_be_bytes()[..]].concat(),
    }
}

pub(crate) fn push(operation: i32, body: &[u8]) -> Push {
    let frame = Frame { version: 1, operation, sequence: 0, body };
    Push::new(operation, Encoded::frame(&frame))
}

/// A key whose home is shard `home` of two.
pub(crate) fn key_at(home: u16) -> String {
    let mut keys = (0..).map(|number| format!("k{number}"));
    keys.find(|key| home_of_key(key, 2).0 == home).expect("half of all keys")
}

/// A room whose home is shard `home` of two.
pub(crate) fn room_at(home: u16) -> String {
    let mut rooms = (0..).map(|number| format!("r{number}"));
    rooms.find(|room| home_of_room(room, 2).0 == home).expect("half of all rooms")
}

/// Reads `user/key/room/operations`, each of which may be empty. `room` may be several with `+` between them, the first
/// of which is *the* room. Anything else is refused.
fn identity(token: &[u8]) -> Result<Identity, String> {
    let text = std::str::from_utf8(token).expect("tokens here are text");
    let [user, key, room, operations] = text.split('/').collect::<Vec<_>>()[..] else {
        return Err("no such token".to_owned());
    };
    let name = |name: &str| (!name.is_empty()).then(|| name.into());
    let mut rooms = room.split('+');
    let room = rooms.next().unwrap_or_default();
    let listed = || operations.split(',').map(|operation| operation.parse().unwrap()).collect();
    Ok(Identity {
        user: user.parse().unwrap_or(0),
        key: name(key),
        room: name(room),
        accepts: if operations.is_empty() {
            OperationFilter::All
        } else {
            OperationFilter::Only(listed())
        },
        heartbeat_ms: None,
        expires_in_ms: None,
        rooms: rooms.map(Into::into).collect(),
    })
}
