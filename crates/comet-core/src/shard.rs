//! The shard: one core's connections, rooms and homes, as one state machine.
//!
//! A turn of the driver is a sequence of calls in this order:
//!
//! 1. [`Shard::handle_time`] sets the time, from which all deadlines count.
//! 2. `handle_*` calls pass on what has completed: accepts, received bytes, finished sends. If [`Shard::has_expired`],
//!    a turn takes no more than that.
//! 3. [`Shard::postpone_overdue`] postpones the deadlines of peers whose input or progress has not reached the shard yet.
//!    Then [`Shard::handle_deadlines`] handles what is due. So a stalled core closes no client that sent its heartbeat
//!    in time.
//! 4. Any number of other `handle_*` calls. [`Shard::handle_listings`] continues lists of connections while
//!    [`Shard::has_listings`]. [`Shard::handle_message`] takes pushes while [`Shard::takes_pushes`]; then
//!    [`Shard::handle_pushes`] continues them while [`Shard::has_pushes`]. Before the pushes of the inbox,
//!    [`Shard::end_due_window`] begins those whose gathering window has ended. In a turn that takes no push,
//!    [`Shard::handle_crowds`] continues the pushes to crowds by one slice. It is best called after
//!    [`Shard::poll_auth`], so that the answers to connecting clients come before its sends.
//! 5. The polls, each until it returns nothing: [`Shard::poll_auth`], [`Shard::poll_transmit`], [`Shard::poll_closed`],
//!    [`Shard::poll_close`], [`Shard::poll_message`] for each peer, [`Shard::poll_report`]. The log event of a
//!    connection comes out before its socket is closed, while the driver still knows the peer's address.
//! 6. The driver sleeps until something happens, at most until [`Shard::poll_timeout`]. If
//!    [`Shard::poll_coalesced_wait`] returns a time, received bytes may wait until then.
//!
//! The parts of a shard are the types in the modules below, one idea each. Whatever concerns several parts is a method
//! of [`Shard`], in a module for each subject.

// Parts.
mod callers;
mod conn_lists;
mod connections;
mod context;
mod crowds;
mod deflated_input;
mod delivery;
mod departures;
mod gathering;
mod keys_elsewhere;
mod listings;
mod messages;
mod outboxes;
mod pacing;
mod push_forms;
mod push_task;
mod reports;

// Methods of `Shard`.
mod auth_reply;
mod calling;
mod closing;
mod deadlines;
mod dispatch;
mod drain;
mod event_ids;
mod event_streams;
mod gap_markers;
mod hand_over;
mod handshakes;
mod held_input;
mod history_pages;
mod input;
mod inspect;
mod logic;
mod operations;
mod parking;
mod presence;
mod pushes;
mod rate_limiter;
mod recoveries;
mod registration;
mod reply;
mod room_counts;
mod room_orders;
mod room_requests;
mod rooms;
mod socket_events;
mod sources;
mod stream_pushes;
mod take_over;
mod token_expiry;
mod token_renewal;
mod top;
mod trace;
mod traffic;

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;

use crate::active_clock::ActiveClock;
use crate::budget::Budget;
use crate::further_rooms::FurtherRooms;
use crate::gaps::Gaps;
use crate::history::HistoryRule;
use crate::home::Home;
use crate::idle_coalescing::IdleCoalescing;
use crate::ids::{CallId, ConnId, ShardId, Slot};
use crate::jitter::Jitter;
use crate::ledger::Counters;
use crate::limits::Limits;
use crate::message::{Message, MessageClass, Report};
use crate::room::{RoomId, Rooms};
use crate::settings::Settings;
use crate::socket::{ClosedEvent, SocketShutdown};
use crate::time::{Millis, Tick, TokenTime};

pub use crowds::CrowdSlice;

use callers::Callers;
use connections::Connections;
use context::Context;
use crowds::Crowds;
use deflated_input::DeflatedInput;
use departures::Departures;
use gathering::Gathering;
use handshakes::Handshakes;
use listings::Listings;
use messages::MessageQueues;
use outboxes::Outboxes;
use pacing::{DrainPhase, Pacing};
use push_task::{PushTask, PushTimer};
use rate_limiter::RateLimiter;
use recoveries::Recoveries;
use reports::ReportQueue;
use room_orders::RoomOrders;
use sources::Sources;
use token_expiry::TokenExpiries;
use top::TopRooms;
use trace::Tracing;
use traffic::Traffic;

/// The steps of [`Shard::handle_deadlines`] after it has expired deadlines. A step stops when the budget is spent, and
/// continues from there in a later call.
const STEPS: [fn(&mut Shard, &mut Budget); 12] = [
    Shard::close_expired_tokens,
    Shard::expire_parked,
    Shard::pace_broadcasts,
    Shard::give_due_notices,
    Shard::send_room_counts,
    Shard::tell_presence,
    Shard::expire_retained,
    Shard::answer_joined,
    Shard::read_waiting,
    Shard::update_all_tracing,
    Shard::walk_rooms,
    Shard::answer_recoveries,
];

/// One core's share of comet. The module documentation gives the order of calls.
pub struct Shard {
    context: Context,
    conns: Connections,
    /// When tokens expire, for the connections whose tokens do. In ticks of elapsed time, so stalls count.
    token_expiries: TokenExpiries,
    handshakes: Handshakes,
    sources: Sources,
    /// The number of lingering connections that were turned away.
    turned_away: usize,
    rate_limiter: RateLimiter,
    outboxes: Outboxes,
    /// Rooms with members on this shard.
    rooms: Rooms,
    further_rooms: FurtherRooms,
    room_orders: RoomOrders,
    /// The pushes that connections have lost, in rooms that keep a history.
    gaps: Gaps,
    recoveries: Recoveries,
    /// Sessions whose connections on this shard have ended, on their way to their homes.
    departures: Departures,
    top_rooms: TopRooms,
    traffic: Traffic,
    /// Keys, users and rooms whose home is this shard.
    home: Home,
    next_room_counts: Millis,
    /// In the present step: the changed counts of this shard's rooms and of its homes' rooms that are still to be sent;
    /// and whether retained entries may have to expire.
    counts_left: [usize; 2],
    has_retained_due: bool,
    /// When control's inbox last had no space for a report.
    reports_waited_at: Millis,
    /// Pushes under way. Those to crowds are in `crowds`.
    pushes: VecDeque<PushTask>,
    crowds: Crowds,
    gathering: Gathering,
    push_timer: PushTimer,
    /// Rooms whose homes have answered a join request, with connections that wait for the answer.
    joined: VecDeque<RoomId>,
    tracing: Tracing,
    /// The tracing of connections from this slot on has to be decided anew.
    tracing_from: Option<Slot>,
    /// Lists of connections that are being made.
    listings: Listings,
    /// The step with which the next [`Shard::handle_deadlines`] begins.
    first_step: usize,
    messages: MessageQueues,
    reports: ReportQueue,
    /// For the driver: tokens to look at, sockets to shut, closed connections to log. A token itself is kept with its
    /// connection, so it is freed with it.
    auths: VecDeque<ConnId>,
    closes: VecDeque<(ConnId, SocketShutdown)>,
    closed: VecDeque<ClosedEvent>,
    /// Push callers that are connected to this shard.
    callers: Callers,
    pacing: Pacing,
    drain: DrainPhase,
    idle: IdleCoalescing,
    jitter: Jitter,
    /// The time of the token that arrived last.
    latest_token: TokenTime,
    counters: Counters,
    /// A buffer for unmasking WebSocket messages, kept between calls.
    scratch: Vec<u8>,
    deflated_input: DeflatedInput,
    /// The connection whose held input is being read.
    reading_held: Option<Slot>,
    is_input_held: bool,
}

impl Shard {
    /// A shard without connections, at time `now`.
    ///
    /// # Panics
    /// If the settings contradict each other.
    #[must_use]
    pub fn new(settings: &Settings, now: Millis) -> Self {
        settings.assert_sound();
        let Settings { shard, shards, ref limits, logic, hash_seed: seed, has_other_hosts } =
            *settings;
        Self {
            context: Context {
                shard,
                shards,
                limits: Arc::clone(limits),
                logic,
                has_other_hosts,
                now,
                clock: ActiveClock::new(now),
            },
            conns: Connections::new(shard, now),
            token_expiries: TokenExpiries::new(now.tick()),
            handshakes: Handshakes::default(),
            sources: Sources::with_hasher(RandomState::with_seeds(seed, 10, 11, 12)),
            turned_away: 0,
            rate_limiter: RateLimiter::new(seed),
            outboxes: Outboxes::new(seed, now),
            rooms: Rooms::new(limits.buckets, seed ^ 4),
            further_rooms: FurtherRooms::new(limits.buckets, seed ^ 16),
            room_orders: RoomOrders::new(seed),
            gaps: Gaps::new(seed),
            recoveries: Recoveries::new(seed),
            departures: Departures::new(seed),
            top_rooms: TopRooms::new(seed, now),
            traffic: Traffic::new(seed, now),
            home: Home::new((shard, shards), limits, seed, now.tick()),
            next_room_counts: now,
            counts_left: [0, 0],
            has_retained_due: false,
            reports_waited_at: Millis(0),
            pushes: VecDeque::new(),
            crowds: Crowds::default(),
            gathering: Gathering::new(seed),
            push_timer: PushTimer::default(),
            joined: VecDeque::new(),
            tracing: Tracing::with_hasher(RandomState::with_seeds(seed, 13, 14, 15)),
            tracing_from: None,
            listings: Listings::new(),
            first_step: 0,
            messages: MessageQueues::new(shard, shards),
            reports: ReportQueue::default(),
            auths: VecDeque::new(),
            closes: VecDeque::new(),
            closed: VecDeque::new(),
            callers: Callers::default(),
            pacing: Pacing::new(now),
            drain: DrainPhase::default(),
            idle: IdleCoalescing::new(now),
            jitter: Jitter::new(seed ^ u64::from(shard.0)),
            latest_token: TokenTime::default(),
            counters: Counters::default(),
            scratch: Vec::new(),
            deflated_input: DeflatedInput::default(),
            reading_held: None,
            is_input_held: false,
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
        counters.handshakes = self.handshakes.pending() as u64;
        counters.moving_off = self.pacing.notices_left();
        counters.callers = self.callers.len() as u64;
        counters.callers_accepted = self.callers.accepted;
        counters.callers_ended = self.callers.ended;
        counters.calls = self.callers.answered;
        counters.sources = self.home.sources.len() as u64;
        counters.addresses = self.home.sources.addresses() as u64;
        counters.stalled_millis += self.context.clock.stalled_ms();
        counters.rooms = self.home.rooms.len() as u64;
        counters.further_rooms = self.further_rooms.pairs() as u64;
        counters.history_bytes = self.home.histories.bytes() as u64;
        counters.recovery_bytes = self.recoveries.bytes() as u64;
        counters.history_evicted = self.home.histories.evicted();
        counters.users = self.home.users.len() as u64;
        counters.keys = self.home.keys.len() as u64;
        let Outboxes { bytes_queued, bytes_dropped, ref deflater, .. } = self.outboxes;
        counters.deflated_messages += deflater.messages;
        counters.deflate_saved_bytes += deflater.saved_bytes;
        counters.gathered = self.gathering.pushes() as u64;
        counters.gathered_bytes = self.gathering.bytes() as u64;
        counters.waiting_bytes = bytes_queued - counters.bytes_out - bytes_dropped;
        counters.held_bytes = self.outboxes.chains.held_bytes() as u64;
        let (parked, departed) = (self.home.parking.totals(), self.departures.totals());
        counters.parked = (parked.pushes + departed.pushes) as u64;
        counters.parked_bytes = (parked.bytes + departed.bytes) as u64;
        counters.parked_sessions = self.home.parking.len() as u64;
        let Counters { sent, lost, superseded, unsent, .. } = counters;
        counters.waiting = counters.deliveries.queued - sent - lost - superseded - unsent;
        counters
    }

    /// The present limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.context.limits
    }

    /// Whether `conn` exists and has no close reason. Otherwise the input of its peer does not matter.
    #[must_use]
    pub fn is_open(&mut self, conn: ConnId) -> bool {
        self.conns.get(conn.local()).is_some_and(|conn| conn.is_open())
    }

    /// Whether the shard was told to drain. The driver then takes no more connections.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.drain != DrainPhase::Serving
    }

    // ---- what comes in -------------------------------------------------------------------------

    /// Sets the time to `now`. It never goes back.
    pub fn handle_time(&mut self, now: Millis) {
        debug_assert!(now >= self.context.now);
        let mut clock = self.context.clock;
        clock.advance(now, || self.poll_timeout());
        let stalled_ms = clock.stalled_ms().saturating_sub(self.context.clock.stalled_ms());
        if stalled_ms > 0 {
            self.rate_limiter.note_stall(stalled_ms, now);
        }
        self.context.clock = clock;
        self.context.now = now;
        self.outboxes.begin_turn(now);
        self.deflated_input.begin_turn();
        self.conns.advance(&self.context, &mut self.outboxes);
    }

    /// Whether deadlines of connections have passed. The driver must hand over the input that has arrived before it
    /// calls [`Shard::handle_deadlines`].
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.conns.has_expired()
    }

    /// Handles what is due, and continues what former turns have left over, until the budget is spent. To be called
    /// when [`Shard::poll_timeout`] has passed and while [`Shard::has_work`]. More calls do no harm.
    pub fn handle_deadlines(&mut self, budget: &mut Budget) {
        self.expire_all(budget);
        self.expire_callers();
        self.pacing.begin_step(self.context.now);
        self.begin_count_step();
        for _ in 0..STEPS.len() {
            STEPS[self.first_step](self, budget);
            // If this step has used up the budget, the next call begins with the step after it.
            self.first_step = (self.first_step + 1) % STEPS.len();
            if !budget.is_left() {
                break;
            }
        }
        self.dispatch_local();
    }

    /// Whether [`Shard::handle_deadlines`] has more to do. The next turn then follows at once.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.conns.is_behind(&self.context)
            || self.token_expiries.is_due(self.context.now.tick())
            || self.home.parking.is_due(self.context.tick())
            || self
                .pacing
                .has_work(self.conns.end(), |notices| self.has_to_wait_for_pushes(notices))
            || self.has_counts_to_send()
            || self.has_retained_due
            || !self.joined.is_empty()
            || self.deflated_input.is_waiting()
            || self.tracing_from.is_some()
            || self.home.rooms.has_scans()
            || !self.home.recoveries.is_empty()
            || self.home.presence.next_end().is_some_and(|end| end <= self.context.now)
    }

    /// The driver's last turn took `micros`, its sleep not counted.
    pub fn handle_turn(&mut self, micros: u32) {
        let micros = u64::from(micros);
        self.counters.turn_times.record(micros);
        self.counters.turn_micros_max = self.counters.turn_micros_max.max(micros);
        self.note_turn_of_pushes(micros);
        self.gathering.note_turn(self.context.now, micros);
    }

    /// Takes a message from another shard or from control. A push is only begun; [`Shard::handle_pushes`] continues it.
    pub fn handle_message(&mut self, message: Message) {
        self.messages.push_local(message);
        self.dispatch_local();
    }

    // ---- what goes out -------------------------------------------------------------------------

    /// The next message of `class` for `peer`.
    pub fn poll_message(&mut self, peer: ShardId, class: MessageClass) -> Option<Message> {
        self.messages.pop(peer, class)
    }

    /// Takes back a message that did not fit into the inbox of `peer`. It stays the next one of its class.
    pub fn return_message(&mut self, peer: ShardId, message: Message) {
        self.counters.mesh_waits += 1;
        self.messages.put_back(peer, message);
    }

    /// The next report for control.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop()
    }

    /// Takes back a report that did not fit into control's inbox. It stays the next one.
    pub fn return_report(&mut self, report: Report) {
        self.reports_waited_at = self.context.clock.active();
        self.reports.put_back(report);
    }

    /// The next closed connection to log.
    pub fn poll_closed(&mut self) -> Option<ClosedEvent> {
        self.closed.pop_front()
    }

    /// When [`Shard::handle_deadlines`] or [`Shard::end_due_window`] is due next, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let deadline = self.conns.next_deadline(&self.context);
        let step = self.pacing.next_step();
        let has_counts = self.rooms.changed() + self.home.rooms.changed() > 0;
        let counts = has_counts.then_some(self.next_room_counts);
        let retained =
            self.home.next_expiry(self.context.user_retention_ms(), self.key_retention());
        // Retained entries expire in the step that sends room counts.
        let retained = retained.map(|at| self.context.clock.time_of(at).max(self.next_room_counts));
        let token = self.token_expiries.next_tick().map(Tick::begin);
        let window = self.gathering.next_end();
        let caller = self.callers.next_due().map(|at| self.context.clock.time_of(at));
        let presence = self.home.presence.next_end();
        let parked = self.home.parking.next_tick();
        let parked = parked.map(|tick| self.context.clock.time_of(tick.begin()));
        [deadline, parked, token, step, counts, retained, window, caller, presence]
            .into_iter()
            .flatten()
            .min()
    }

    /// The time until which the driver may leave received bytes in the kernel if no work is left. Messages, new
    /// connections and [`Shard::poll_timeout`] end the wait earlier.
    #[must_use]
    pub fn poll_coalesced_wait(&self) -> Option<Millis> {
        let until = self.idle.waits_until(self.context.now, &self.context.limits);
        until.filter(|_| !self.is_draining())
    }

    // ---- orders of control ---------------------------------------------------------------------

    fn configure(&mut self, limits: Arc<Limits>) {
        limits.assert_sound();
        let former = std::mem::replace(&mut self.context.limits, limits);
        self.departures.was_on |= former.resume.is_on();
        self.check_caller_tokens(&former);
        let limits = &self.context.limits;
        let covers_all = |rule: &HistoryRule| {
            limits.history_rules.iter().any(|newer| newer.covers(&rule.prefix))
        };
        // Otherwise no room loses its rule.
        if !former.history_rules.iter().all(covers_all) && !limits.history_is_shared {
            let covers = |room: &str| limits.history_rule(room).is_some();
            self.home.histories.forget_uncovered(covers);
        }
        let limits = &self.context.limits;
        if former.trace_users != limits.trace_users || former.traces != limits.traces {
            self.tracing_from = Some(Slot(0));
            if limits.traces.has_networks() {
                self.begin_tracing_networks();
            }
        }
    }

    fn snapshot(&mut self, call: CallId) {
        let counters = Box::new(self.counters());
        self.reports.push(Report::Snapshot { call, shard: self.context.shard, counters });
    }
}
