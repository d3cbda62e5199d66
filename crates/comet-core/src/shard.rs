//! The shard: one core's connections, rooms and homes, as one state machine.
//!
//! A turn of the driver is a sequence of calls in this order:
//!
//! 1. [`Shard::handle_time`] tells the time, from which all deadlines count.
//! 2. `handle_*` calls pass on what has completed: accepts, bytes, finished sends. If
//!    [`Shard::has_expired`], that is as much as one turn takes.
//! 3. [`Shard::spare_overdue`] puts off the deadlines of peers whose input or progress is not handed over yet.
//!    Then [`Shard::handle_deadlines`] does what is due. So a stalled core closes no client that sent its
//!    heartbeat in time.
//! 4. Any number of other `handle_*` calls.
//! 5. The polls, each until it gives nothing more: [`Shard::poll_auth`], [`Shard::poll_transmit`],
//!    [`Shard::poll_closed`], [`Shard::poll_close`], [`Shard::poll_message`] for each peer,
//!    [`Shard::poll_report`]. The log event of a connection comes out before its socket is closed, so a driver
//!    still knows the peer.
//! 6. The driver sleeps until something happens, no longer than [`Shard::poll_timeout`] says. While
//!    [`Shard::poll_coalesced_wait`] gives a time, received bytes may wait until then.
//!
//! The parts of a shard, one idea each, are the types in the modules below. What concerns several of them is
//! a method of [`Shard`], in a module for each subject.

// Parts.
mod connections;
mod context;
mod delivery;
mod messages;
mod outboxes;
mod pacing;
mod reports;

// Methods of `Shard`.
mod closing;
mod deadlines;
mod dispatch;
mod drain;
mod input;
mod inspect;
mod logic;
mod operations;
mod pushes;
mod registration;
mod reply;
mod room_counts;
mod rooms;
mod socket_events;
mod trace;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::active_clock::ActiveClock;
use crate::home::Home;
use crate::idle_coalescing::IdleCoalescing;
use crate::ids::{CallId, ConnId, ShardId};
use crate::jitter::Jitter;
use crate::ledger::Counters;
use crate::limits::Limits;
use crate::message::{AuthRequest, Message, Report};
use crate::room::Rooms;
use crate::settings::Settings;
use crate::socket::{CloseHow, ClosedEvent};
use crate::time::Millis;

use connections::Connections;
use context::Context;
use messages::MessageQueues;
use outboxes::Outboxes;
use pacing::{DrainPhase, Pacing};
use reports::ReportQueue;

/// One core's share of comet. The module text gives the order of calls.
pub struct Shard {
    context: Context,
    conns: Connections,
    outboxes: Outboxes,
    /// Rooms with members on this shard.
    rooms: Rooms,
    /// Keys, users and rooms whose home is this shard.
    home: Home,
    next_room_counts: Millis,
    messages: MessageQueues,
    reports: ReportQueue,
    /// For the driver: tokens to look at, sockets to shut, closed connections to log.
    auths: VecDeque<AuthRequest>,
    closes: VecDeque<(ConnId, CloseHow)>,
    closed: VecDeque<ClosedEvent>,
    pacing: Pacing,
    drain: DrainPhase,
    idle: IdleCoalescing,
    jitter: Jitter,
    counters: Counters,
    /// Memory for WebSocket messages that are unmasked, kept between calls.
    scratch: Vec<u8>,
}

impl Shard {
    /// A shard without connections, at time `now`.
    ///
    /// # Panics
    /// If the settings contradict each other.
    #[must_use]
    pub fn new(settings: &Settings, now: Millis) -> Self {
        settings.assert_sound();
        let Settings { shard, shards, ref limits, logic, hash_seed: seed } = *settings;
        Self {
            context: Context {
                shard,
                shards,
                limits: Arc::clone(limits),
                logic,
                now,
                clock: ActiveClock::new(now),
            },
            conns: Connections::new(shard, now),
            outboxes: Outboxes::new(),
            rooms: Rooms::new(seed ^ 4),
            home: Home::new(shard, shards, limits.buckets, seed),
            next_room_counts: now,
            messages: MessageQueues::new(shard, shards),
            reports: ReportQueue::default(),
            auths: VecDeque::new(),
            closes: VecDeque::new(),
            closed: VecDeque::new(),
            pacing: Pacing::new(now),
            drain: DrainPhase::default(),
            idle: IdleCoalescing::new(now),
            jitter: Jitter::new(seed ^ u64::from(shard.0)),
            counters: Counters::default(),
            scratch: Vec::new(),
        }
    }

    /// Which shard this is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.context.shard
    }

    /// The counters, with the gauges as they are now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        counters.connections = self.conns.len() as u64;
        counters.stalled_millis = self.context.clock.stalled_ms();
        counters.rooms = self.home.rooms.len() as u64;
        counters.users = self.home.users.len() as u64;
        counters.keys = self.home.keys.len() as u64;
        let Outboxes { bytes_queued, bytes_dropped, .. } = self.outboxes;
        counters.waiting_bytes = bytes_queued - counters.bytes_out - bytes_dropped;
        counters.waiting =
            counters.deliveries.queued - counters.sent - counters.lost - counters.superseded;
        counters
    }

    /// The bounds that hold now.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.context.limits
    }

    /// It was told to drain: the driver takes no more connections.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain != DrainPhase::Serving
    }

    // ---- what comes in -------------------------------------------------------------------------

    /// The time is `now`, which never goes back.
    pub fn handle_time(&mut self, now: Millis) {
        debug_assert!(now >= self.context.now);
        let mut clock = self.context.clock;
        clock.advance(now, || self.poll_timeout());
        self.context.clock = clock;
        self.context.now = now;
        self.outboxes.begin_turn();
        self.conns.advance(&self.context);
    }

    /// Deadlines of connections have passed. What their peers sent by now is to be handed over before
    /// [`Shard::handle_deadlines`].
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.conns.has_expired()
    }

    /// Does what is due by now. Due whenever [`Shard::poll_timeout`] has passed; more calls do no harm.
    pub fn handle_deadlines(&mut self) {
        if self.pacing.begins_step(self.context.now) {
            self.pace_broadcasts();
            self.give_due_notices();
        }
        self.expire_all();
        self.count_rooms();
        self.dispatch_local();
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
        self.messages.push_local(message);
        self.dispatch_local();
    }

    // ---- what goes out -------------------------------------------------------------------------

    /// The next token to look at; none with [`crate::Logic::Remote`].
    pub fn poll_auth(&mut self) -> Option<AuthRequest> {
        self.auths.pop_front()
    }

    /// The next message for `peer`.
    pub fn poll_message(&mut self, peer: ShardId) -> Option<Message> {
        self.messages.pop(peer)
    }

    /// Takes back a message that did not fit into the inbox of `peer`. It is the next one again.
    pub fn return_message(&mut self, peer: ShardId, message: Message) {
        self.counters.mesh_waits += 1;
        self.messages.put_back(peer, message);
    }

    /// The next report for control.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop()
    }

    /// Takes back a report that did not fit into control's inbox. It is the next one again.
    pub fn return_report(&mut self, report: Report) {
        self.reports.put_back(report);
    }

    /// The next closed connection to write to the log.
    pub fn poll_closed(&mut self) -> Option<ClosedEvent> {
        self.closed.pop_front()
    }

    /// When [`Shard::handle_deadlines`] is due next, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let deadline = self.conns.next_deadline(&self.context);
        let step = self.pacing.next_step();
        let has_counts = self.rooms.has_changed() || self.home.rooms.has_changed();
        let counts = has_counts.then_some(self.next_room_counts);
        let user_ms = self.context.user_retention_ms();
        let retained = self.home.next_expiry(user_ms, self.context.key_retention_ms());
        // What is retained expires in the step of the room counts.
        let retained = retained.map(|at| self.context.clock.time_of(at).max(self.next_room_counts));
        [deadline, step, counts, retained].into_iter().flatten().min()
    }

    /// Until when the driver may leave received bytes in the kernel, if no work is left. Messages, new
    /// connections and [`Shard::poll_timeout`] do not wait.
    #[must_use]
    pub fn poll_coalesced_wait(&self) -> Option<Millis> {
        let until = self.idle.waits_until(self.context.now, &self.context.limits);
        until.filter(|_| !self.is_draining())
    }

    // ---- orders of control ---------------------------------------------------------------------

    fn configure(&mut self, limits: Arc<Limits>) {
        limits.assert_sound();
        let former = std::mem::replace(&mut self.context.limits, limits);
        if former.trace_users != self.context.limits.trace_users {
            self.update_all_tracing();
        }
    }

    fn snapshot(&mut self, call: CallId) {
        let counters = Box::new(self.counters());
        self.reports.push(Report::Snapshot { call, shard: self.context.shard, counters });
    }
}
