//! The shard: one core's connections, rooms and homes, as one state machine.
//!
//! A turn of the driver begins with [`Shard::handle_time`]: deadlines count from the time told last.
//! Then it hands over what completed, if [`Shard::has_expired`] as much as one turn takes, and only then
//! [`Shard::handle_deadlines`]: a client that spoke in time is not late because the core was. After any number of other `handle_*` calls it polls, each until
//! it gives nothing more: [`Shard::poll_auth`], [`Shard::poll_transmit`], [`Shard::poll_closed`],
//! [`Shard::poll_close`], after which a driver may not know the peer any more, [`Shard::poll_message`] for
//! each peer, [`Shard::poll_report`]; then it sleeps no longer than [`Shard::poll_timeout`] says, or naps
//! ([`Shard::poll_coalesced_wait`]).

mod deliver;
mod directory;
mod drain;
mod ending;
mod input;
mod inspect;
mod logic;
mod reply;
mod socket;
mod trace;

use std::collections::VecDeque;
use std::sync::Arc;

use comet_proto::Encoded;

use crate::conn::Conn;
use crate::home::Home;
use crate::idle_coalescing::IdleCoalescing;
use crate::ids::{CallId, ConnId, ShardId, Slot};
use crate::jitter::Jitter;
use crate::ledger::{CloseReason, Counters};
use crate::limits::{Limits, PACE_MS, ROOM_COUNT_MS, TICK_MS};
use crate::message::{AuthRequest, Message, Report};
use crate::outbox::{Chains, Item};
use crate::room::Rooms;
use crate::slab::Slab;
use crate::time::{Millis, Tick};
use crate::wheel::Wheel;

use deliver::Paced;
use drain::Draining;
pub use inspect::LiveConn;
pub use logic::Logic;
pub use socket::{CloseHow, Hangup, Transmit};
use trace::TraceQueue;

/// What makes a shard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which one it is.
    pub shard: ShardId,
    /// How many there are; at least one.
    pub shards: u16,
    /// Its bounds.
    pub limits: Arc<Limits>,
    /// Where tokens and client messages go.
    pub logic: Logic,
    /// Secret of its hash maps and its choices; the simulator fixes it so that a seed replays.
    pub hash_seed: u64,
}

/// A connection that was told to close, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedEvent {
    /// Which.
    pub conn: ConnId,
    /// Why.
    pub reason: CloseReason,
    /// Its key; empty if it never had one.
    pub key: Box<str>,
    /// What exactly was wrong; empty where the reason says it all.
    pub detail: Box<str>,
}

/// One core's share of comet. See the module text for the order of calls.
pub struct Shard {
    id: ShardId,
    shards: u16,
    limits: Arc<Limits>,
    logic: Logic,
    now: Millis,
    conns: Slab<Slot, Conn>,
    chains: Chains,
    wheel: Wheel,
    rooms: Rooms,
    home: Home,
    jitter: Jitter,
    idle: IdleCoalescing,
    counters: Counters,
    /// Bytes that ever entered an outbox, and those that left one in another way than to the kernel.
    bytes_queued: u64,
    bytes_given_up: u64,
    /// Connections with something to send and nothing in flight.
    ready: VecDeque<Slot>,
    /// Connections whose send was still under way when it was looked at last.
    watched: Vec<Slot>,
    closes: VecDeque<(ConnId, CloseHow)>,
    auths: VecDeque<AuthRequest>,
    /// Messages to this shard itself, carried out before a `handle_*` returns.
    local: VecDeque<Message>,
    outgoing: Box<[Outgoing]>,
    /// The last reply of this turn: who comes next often gets the same, and then shares it.
    replied: Option<(Encoded, Item)>,
    reports: VecDeque<Report>,
    events: VecDeque<ClosedEvent>,
    paced: VecDeque<Paced>,
    next_pace: Millis,
    next_room_count: Millis,
    is_draining: bool,
    draining: Option<Draining>,
    drained_reported: bool,
    trace: TraceQueue,
    scratch: Vec<u8>,
    /// The wheel came past these slots.
    expired: Vec<Slot>,
}

/// What waits for one other shard.
#[derive(Default)]
struct Outgoing {
    messages: VecDeque<Message>,
    pushes: usize,
    room_counts: usize,
}

impl Outgoing {
    fn push_back(&mut self, message: Message) {
        self.pushes += usize::from(message.is_push());
        self.room_counts += usize::from(message.is_room_count());
        self.messages.push_back(message);
    }

    fn pop_front(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.pushes -= usize::from(message.is_push());
        self.room_counts -= usize::from(message.is_room_count());
        Some(message)
    }

    fn push_front(&mut self, message: Message) {
        self.pushes += usize::from(message.is_push());
        self.room_counts += usize::from(message.is_room_count());
        self.messages.push_front(message);
    }
}

impl Shard {
    /// A shard without connections, at time `now`.
    ///
    /// # Panics
    /// If the settings contradict each other.
    #[must_use]
    pub fn new(settings: &Settings, now: Millis) -> Self {
        settings.limits.assert_sound();
        settings.logic.assert_sound();
        assert!(settings.shard.0 < settings.shards, "shards are numbered from 0 without gaps");
        let seed = settings.hash_seed;
        Self {
            id: settings.shard,
            shards: settings.shards,
            limits: Arc::clone(&settings.limits),
            logic: settings.logic,
            now,
            conns: Slab::new(),
            chains: Chains::new(),
            wheel: Wheel::new(now.tick()),
            rooms: Rooms::new(seed ^ 4),
            home: Home::new(settings.shard, settings.shards, settings.limits.buckets, seed),
            jitter: Jitter::new(seed ^ u64::from(settings.shard.0)),
            idle: IdleCoalescing::new(now),
            counters: Counters::default(),
            bytes_queued: 0,
            bytes_given_up: 0,
            ready: VecDeque::new(),
            watched: Vec::new(),
            closes: VecDeque::new(),
            auths: VecDeque::new(),
            local: VecDeque::new(),
            outgoing: (0..settings.shards).map(|_| Outgoing::default()).collect(),
            replied: None,
            reports: VecDeque::new(),
            events: VecDeque::new(),
            paced: VecDeque::new(),
            next_pace: now,
            next_room_count: now,
            is_draining: false,
            draining: None,
            drained_reported: false,
            trace: TraceQueue::default(),
            scratch: Vec::new(),
            expired: Vec::new(),
        }
    }

    /// Which shard this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The counters, with the gauges as they are now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.connections = self.conns.len() as u64;
        counters.rooms = self.home.rooms_with_members() as u64;
        counters.users = self.home.users() as u64;
        counters.keys = self.home.keys() as u64;
        counters.waiting_bytes = self.bytes_queued - counters.bytes_out - self.bytes_given_up;
        counters.waiting =
            counters.deliveries.queued - counters.sent - counters.lost - counters.superseded;
        counters
    }

    /// The bounds that hold now.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// It was told to drain: the driver takes no more connections.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    // ---- what comes in -------------------------------------------------------------------------

    /// The time has come to `now`, which never goes back.
    pub fn handle_time(&mut self, now: Millis) {
        debug_assert!(now >= self.now);
        self.now = now;
        self.replied = None;
        if self.wheel.now() < now.tick() {
            self.watch();
            self.wheel.advance(now.tick(), &mut self.expired);
        }
    }

    /// Deadlines of connections have passed. What those have done by now is to be handed over before
    /// [`Shard::handle_deadlines`].
    #[must_use]
    pub fn has_expired(&self) -> bool {
        !self.expired.is_empty()
    }

    /// Does what is due by now. Call it whenever [`Shard::poll_timeout`] has passed; more often does no
    /// harm.
    pub fn handle_deadlines(&mut self) {
        let now = self.now;
        if now >= self.next_pace {
            self.next_pace = now.after(PACE_MS);
            self.pace();
            self.say_goodbyes();
        }
        let mut expired = std::mem::take(&mut self.expired);
        for slot in expired.drain(..) {
            // It may have gone meanwhile; and whoever has come in its place has a later deadline.
            if self.conns.is_taken(slot) {
                self.expire(slot);
            }
        }
        self.expired = expired;
        if now >= self.next_room_count {
            self.next_room_count = now.after(ROOM_COUNT_MS);
            self.tell_room_counts();
            let (users, keys) = self.memory_ms();
            self.home.forget(now, users, keys);
        }
        self.settle();
    }

    /// The driver's last turn took `micros`, its sleep not counted.
    pub fn handle_turn(&mut self, micros: u32) {
        let micros = u64::from(micros);
        self.counters.turns += 1;
        self.counters.turn_micros += micros;
        self.counters.turn_micros_max = self.counters.turn_micros_max.max(micros);
    }

    /// A message from another shard or from control.
    pub fn handle_message(&mut self, message: Message) {
        self.local.push_back(message);
        self.settle();
    }

    // ---- what goes out -------------------------------------------------------------------------

    /// The next token to look at; none with [`Logic::Remote`].
    pub fn poll_auth(&mut self) -> Option<AuthRequest> {
        self.auths.pop_front()
    }

    /// The next message for `peer`.
    pub fn poll_message(&mut self, peer: ShardId) -> Option<Message> {
        self.outgoing[usize::from(peer.0)].pop_front()
    }

    /// Takes back a message that `peer` had no room for; it is the next one again.
    pub fn return_message(&mut self, peer: ShardId, message: Message) {
        self.counters.mesh_waits += 1;
        self.outgoing[usize::from(peer.0)].push_front(message);
    }

    /// The next report for control.
    pub fn poll_report(&mut self) -> Option<Report> {
        let report = self.reports.pop_front()?;
        if matches!(report, Report::Trace(_)) {
            self.trace_reported();
        }
        Some(report)
    }

    /// Takes back a report that control had no room for; it is the next one again.
    pub fn return_report(&mut self, report: Report) {
        if matches!(report, Report::Trace(_)) {
            self.trace_returned();
        }
        self.reports.push_front(report);
    }

    /// The next closed connection to write to the log.
    pub fn poll_closed(&mut self) -> Option<ClosedEvent> {
        self.events.pop_front()
    }

    /// When [`Shard::handle_deadlines`] is due next, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let wheel = self.wheel.next_tick().map(Tick::begin);
        let watch = (!self.watched.is_empty()).then(|| self.now.after(TICK_MS));
        let is_pacing = !self.paced.is_empty() || self.draining.is_some();
        let pace = is_pacing.then_some(self.next_pace);
        let counts =
            (self.rooms.has_changed() || self.home.has_changed()).then_some(self.next_room_count);
        let (users, keys) = self.memory_ms();
        let forget = self.home.forgets_at(users, keys).map(|at| at.max(self.next_room_count));
        [wheel, watch, pace, counts, forget].into_iter().flatten().min()
    }

    /// Until when the driver may leave what clients send where it is, if there is no work left and none
    /// comes from elsewhere: messages, new connections and [`Shard::poll_timeout`] do not wait.
    #[must_use]
    pub fn poll_coalesced_wait(&self) -> Option<Millis> {
        let until = self.idle.waits_until(self.now, &self.limits);
        until.filter(|_| !self.is_draining)
    }

    // ---- bounds ---------------------------------------------------------------------------------

    fn configure(&mut self, limits: Arc<Limits>) {
        limits.assert_sound();
        let past = std::mem::replace(&mut self.limits, limits);
        if past.trace_users != self.limits.trace_users {
            self.relist();
        }
    }

    /// Time between the heartbeats of `slot`.
    fn heartbeat_ms(&self, slot: Slot) -> u32 {
        match self.conns[slot].heartbeat_ms {
            0 => self.limits.heartbeat_ms,
            millis => millis,
        }
    }

    /// How long users who left are remembered, and keys that did: somebody whom logic let in before it
    /// heard of that claims the key within the handshake timeout, or never.
    fn memory_ms(&self) -> (u64, u64) {
        (self.limits.user_memory_ms.into(), u64::from(self.limits.handshake_ms) + ROOM_COUNT_MS)
    }

    // ---- small things everybody here needs -----------------------------------------------------

    /// Carries out what the shard told itself, until nothing is left.
    fn settle(&mut self) {
        while let Some(message) = self.local.pop_front() {
            self.carry_out(message);
        }
    }

    fn slot(&mut self, conn: ConnId) -> Option<Slot> {
        debug_assert_eq!(conn.shard, self.id);
        self.conns.at(conn.slot, conn.generation).map(|_| conn.slot)
    }

    fn conn_id(&self, slot: Slot) -> ConnId {
        ConnId { shard: self.id, slot, generation: self.conns.generation(slot) }
    }

    fn mark_ready(&mut self, slot: Slot) {
        let entry = &mut self.conns[slot];
        if !entry.is_ready {
            entry.is_ready = true;
            self.ready.push_back(slot);
        }
    }

    /// Sends a directory message; a home is often here.
    fn route(&mut self, to: ShardId, message: Message) {
        if to == self.id {
            self.local.push_back(message);
        } else {
            self.outgoing[usize::from(to.0)].push_back(message);
        }
    }

    /// Sends a part of a push. `false`: the queue towards `to` is full.
    fn route_push(&mut self, to: ShardId, message: Message) -> bool {
        debug_assert!(message.is_push() && to != self.id);
        let outgoing = &mut self.outgoing[usize::from(to.0)];
        if outgoing.pushes >= self.limits.mesh_backlog {
            return false;
        }
        outgoing.push_back(message);
        true
    }

    fn snapshot(&mut self, call: CallId) {
        let counters = Box::new(self.counters());
        self.reports.push_back(Report::Snapshot { call, shard: self.id, counters });
    }
}
