//! The shard: one core's connections, rooms and homes, as one state machine.
//!
//! A turn of the driver begins with [`Shard::handle_time`]: deadlines count from the time told last.
//! After any number of other `handle_*` calls it polls, each until it gives nothing more:
//! [`Shard::poll_auth`], [`Shard::poll_transmit`], [`Shard::poll_close`], [`Shard::poll_message`] for
//! each peer, [`Shard::poll_report`], [`Shard::poll_closed`]; then it sleeps no longer than
//! [`Shard::poll_timeout`] says.

mod deliver;
mod directory;
mod ending;
mod input;
mod inspect;

use std::collections::VecDeque;
use std::sync::Arc;

use comet_proto::{Encoded, Frame};

use crate::conn::{Conn, Life, Transport};
use crate::home::Home;
use crate::ids::{CallId, ConnId, Millis, ShardId};
use crate::ledger::{CloseReason, Counters};
use crate::limits::{Limits, PACE_MS, ROOM_COUNT_MS, TICK_MS};
use crate::message::{Identity, Message, Report};
use crate::outbox::{Chains, Progress};
use crate::room::Rooms;
use crate::slab::Slab;
use crate::wheel::{Tick, Wheel};

use deliver::Paced;
pub use inspect::LiveConn;

/// What makes a shard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which one it is.
    pub shard: ShardId,
    /// How many there are; at least one.
    pub shards: u16,
    /// Its bounds.
    pub limits: Arc<Limits>,
    /// Secret of its hash maps; the simulator fixes it so that a seed replays.
    pub hash_seed: u64,
}

/// A token to be looked at. Answered with [`Shard::handle_auth`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRequest {
    /// Whose it is.
    pub conn: ConnId,
    /// Body of the op 7.
    pub token: Box<[u8]>,
    /// Cookie header of the upgrade; empty where there was none.
    pub cookie: Box<str>,
}

/// Bytes for one socket.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// Whose socket.
    pub conn: ConnId,
    /// What to send; never empty. The bytes keep their address and content until the
    /// [`Shard::handle_sent`] or [`Shard::handle_send_failed`] that answers this transmit, even if the
    /// connection is closed before it.
    pub bytes: &'a [u8],
}

/// Which sides of a socket to shut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseHow {
    /// All is sent: shut our side, keep reading until the peer closes too.
    Write,
    /// Shut both sides. Once no operation on the socket is left, [`Shard::handle_gone`].
    Both,
}

/// How the reading side of a socket ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hangup {
    /// The peer closed it.
    Eof,
    /// The kernel's error number.
    Error(i32),
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
    now: Millis,
    conns: Slab<Conn>,
    chains: Chains,
    wheel: Wheel,
    rooms: Rooms,
    home: Home,
    counters: Counters,
    /// Connections with something to send and nothing in flight.
    ready: VecDeque<u32>,
    /// Connections whose send was still under way when it was looked at last.
    watched: Vec<u32>,
    closes: VecDeque<(ConnId, CloseHow)>,
    auths: VecDeque<AuthRequest>,
    /// Messages to this shard itself, carried out before a `handle_*` returns.
    local: VecDeque<Message>,
    outgoing: Box<[Outgoing]>,
    reports: VecDeque<Report>,
    events: VecDeque<ClosedEvent>,
    paced: VecDeque<Paced>,
    next_pace: Millis,
    next_room_count: Millis,
    is_draining: bool,
    drained_reported: bool,
    scratch: Vec<u8>,
    expired: Vec<u32>,
}

/// What waits for one other shard.
#[derive(Default)]
struct Outgoing {
    messages: VecDeque<Message>,
    pushes: usize,
}

impl Shard {
    /// A shard without connections, at time `now`.
    ///
    /// # Panics
    /// If the settings contradict each other.
    #[must_use]
    pub fn new(settings: &Settings, now: Millis) -> Self {
        settings.limits.assert_sound();
        assert!(settings.shard.0 < settings.shards, "shards are numbered from 0 without gaps");
        let seed = settings.hash_seed;
        Self {
            id: settings.shard,
            shards: settings.shards,
            limits: Arc::clone(&settings.limits),
            now,
            conns: Slab::new(),
            chains: Chains::new(),
            wheel: Wheel::new(tick(now)),
            rooms: Rooms::new(seed ^ 4),
            home: Home::new(settings.shard, settings.shards, settings.limits.buckets, seed),
            counters: Counters::default(),
            ready: VecDeque::new(),
            watched: Vec::new(),
            closes: VecDeque::new(),
            auths: VecDeque::new(),
            local: VecDeque::new(),
            outgoing: (0..settings.shards).map(|_| Outgoing::default()).collect(),
            reports: VecDeque::new(),
            events: VecDeque::new(),
            paced: VecDeque::new(),
            next_pace: now,
            next_room_count: now,
            is_draining: false,
            drained_reported: false,
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
        counters.waiting =
            counters.deliveries.queued - counters.sent - counters.lost - counters.superseded;
        counters
    }

    /// It was told to drain: the driver takes no more connections.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    // ---- what comes in -------------------------------------------------------------------------

    /// A socket was accepted. `None`: the shard is full or draining, close it.
    pub fn handle_accept(&mut self, transport: Transport) -> Option<ConnId> {
        if self.is_draining || self.conns.len() >= self.limits.connections as usize {
            self.counters.refused += 1;
            return None;
        }
        match transport {
            Transport::Tcp => self.counters.accepted_tcp += 1,
            Transport::WebSocket => self.counters.accepted_websocket += 1,
        }
        let deadline = self.deadline(self.limits.handshake_ms);
        let slot = self.conns.insert(Conn::new(transport, deadline));
        self.wheel.arm(slot, deadline);
        Some(self.conn_id(slot))
    }

    /// The kernel took `bytes` of the last transmit of `conn`.
    pub fn handle_sent(&mut self, conn: ConnId, bytes: usize) {
        let tick = tick(self.now);
        let slot = self.slot(conn).expect("a slot is not reused while a send is in flight");
        let entry = &mut self.conns[slot];
        self.counters.bytes_out += bytes as u64;
        match self.chains.advance(&mut entry.outbox, entry.transport, bytes) {
            Progress::Partial => entry.moved = tick,
            Progress::Done { pushes } => self.counters.sent += u64::from(pushes),
        }
        if matches!(entry.life, Life::Closed) {
            self.forget_in_flight(slot);
        } else if !entry.outbox.is_empty() {
            self.mark_ready(slot);
        } else if matches!(entry.life, Life::Goodbye) {
            self.shut_write(slot);
        }
    }

    /// The last transmit of `conn` failed with this error number.
    pub fn handle_send_failed(&mut self, conn: ConnId, error: i32) {
        let slot = self.slot(conn).expect("a slot is not reused while a send is in flight");
        self.close(slot, CloseReason::SocketError, &format!("send failed: error {error}"));
        self.forget_in_flight(slot);
        self.settle();
    }

    /// Nothing more will be read from `conn`.
    pub fn handle_hangup(&mut self, conn: ConnId, how: Hangup) {
        let Some(slot) = self.slot(conn) else { return };
        match how {
            Hangup::Eof => self.close(slot, CloseReason::PeerClosed, ""),
            Hangup::Error(error) => {
                self.close(
                    slot,
                    CloseReason::SocketError,
                    &format!("receive failed: error {error}"),
                );
            }
        }
        // It was closing already, and now there is nobody left to say goodbye to.
        self.abort(slot);
        self.settle();
    }

    /// No operation on the socket of `conn` is left; its slot may be taken again.
    ///
    /// # Panics
    /// If the shard did not ask for [`CloseHow::Both`] first, or a send was not answered.
    pub fn handle_gone(&mut self, conn: ConnId) {
        let slot = self.slot(conn).expect("a connection is gone only once");
        let entry = &self.conns[slot];
        assert!(matches!(entry.life, Life::Closed), "shut before it is gone");
        assert!(entry.outbox.is_empty(), "every transmit was answered");
        self.wheel.disarm(slot);
        self.conns.remove(slot);
        self.report_drained();
    }

    /// The time has come to `now`. Call it whenever [`Shard::poll_timeout`] has passed; more often does
    /// no harm. `now` never goes back.
    pub fn handle_time(&mut self, now: Millis) {
        debug_assert!(now >= self.now);
        self.now = now;
        if now >= self.next_pace {
            self.next_pace = now.after(PACE_MS);
            self.pace();
        }
        if self.wheel.now() < tick(now) {
            self.watch();
            let mut expired = std::mem::take(&mut self.expired);
            self.wheel.advance(tick(now), &mut expired);
            for slot in expired.drain(..) {
                self.expire(slot);
            }
            self.expired = expired;
        }
        if now >= self.next_room_count {
            self.next_room_count = now.after(ROOM_COUNT_MS);
            self.tell_room_counts();
        }
        self.settle();
    }

    /// A message from another shard or from control.
    pub fn handle_message(&mut self, message: Message) {
        self.local.push_back(message);
        self.settle();
    }

    // ---- what goes out -------------------------------------------------------------------------

    /// The next token to look at.
    pub fn poll_auth(&mut self) -> Option<AuthRequest> {
        self.auths.pop_front()
    }

    /// The next bytes to send. At most one transmit of a connection is under way at any time.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        loop {
            let slot = self.ready.pop_front()?;
            // A slot that was freed while it waited here, and perhaps taken again.
            if !self.conns.occupied(slot) {
                continue;
            }
            let entry = &mut self.conns[slot];
            if !std::mem::take(&mut entry.is_ready) || matches!(entry.life, Life::Closed) {
                continue;
            }
            if !entry.outbox.is_sending() {
                if !self.chains.start(&mut entry.outbox) {
                    continue;
                }
                entry.moved = tick(self.now);
                if !entry.is_watched {
                    entry.is_watched = true;
                    self.watched.push(slot);
                }
            }
            self.counters.sends += 1;
            let conn = ConnId { shard: self.id, slot, generation: self.conns.generation(slot) };
            let entry = &self.conns[slot];
            let bytes = self.chains.slice(&entry.outbox, entry.transport);
            debug_assert!(!bytes.is_empty());
            return Some(Transmit { conn, bytes });
        }
    }

    /// The next socket to shut.
    pub fn poll_close(&mut self) -> Option<(ConnId, CloseHow)> {
        self.closes.pop_front()
    }

    /// The next message for `peer`.
    pub fn poll_message(&mut self, peer: ShardId) -> Option<Message> {
        let outgoing = &mut self.outgoing[usize::from(peer.0)];
        let message = outgoing.messages.pop_front()?;
        outgoing.pushes -= usize::from(message.is_push());
        Some(message)
    }

    /// Takes back a message that `peer` had no room for; it is the next one again.
    pub fn return_message(&mut self, peer: ShardId, message: Message) {
        self.counters.mesh_waits += 1;
        let outgoing = &mut self.outgoing[usize::from(peer.0)];
        outgoing.pushes += usize::from(message.is_push());
        outgoing.messages.push_front(message);
    }

    /// The next report for control.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// Takes back a report that control had no room for; it is the next one again.
    pub fn return_report(&mut self, report: Report) {
        self.reports.push_front(report);
    }

    /// The next closed connection to write to the log.
    pub fn poll_closed(&mut self) -> Option<ClosedEvent> {
        self.events.pop_front()
    }

    /// When [`Shard::handle_time`] is due next, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let wheel = self.wheel.next_tick().map(|tick| Millis(u64::from(tick.0) * TICK_MS));
        let watch = (!self.watched.is_empty()).then(|| self.now.after(TICK_MS));
        let pace = (!self.paced.is_empty()).then_some(self.next_pace);
        let counts =
            (self.rooms.has_changed() || self.home.has_changed()).then_some(self.next_room_count);
        [wheel, watch, pace, counts].into_iter().flatten().min()
    }

    // ---- small things everybody here needs -----------------------------------------------------

    /// Carries out what the shard told itself, until nothing is left.
    fn settle(&mut self) {
        while let Some(message) = self.local.pop_front() {
            self.carry_out(message);
        }
    }

    fn slot(&mut self, conn: ConnId) -> Option<u32> {
        debug_assert_eq!(conn.shard, self.id);
        self.conns.at(conn.slot, conn.generation).map(|_| conn.slot)
    }

    fn conn_id(&self, slot: u32) -> ConnId {
        ConnId { shard: self.id, slot, generation: self.conns.generation(slot) }
    }

    fn mark_ready(&mut self, slot: u32) {
        let entry = &mut self.conns[slot];
        if !entry.is_ready {
            entry.is_ready = true;
            self.ready.push_back(slot);
        }
    }

    fn reply(&mut self, slot: u32, operation: i32, sequence: i32, body: &[u8]) {
        let frame = Frame { version: 1, operation, sequence, body };
        self.reply_with(slot, Encoded::frame(&frame));
    }

    /// Queues a reply, which has room of its own beside the pushes.
    fn reply_with(&mut self, slot: u32, frame: Encoded) {
        let entry = &mut self.conns[slot];
        if matches!(entry.life, Life::Closed | Life::Lingering)
            || entry.transport.bytes(&frame).is_empty()
        {
            return;
        }
        let item = self.chains.item(frame, false);
        self.chains.append(&mut entry.outbox, &item);
        let replies = self.chains.load(&entry.outbox, entry.transport).replies;
        let is_sending = entry.outbox.is_sending();
        if !is_sending {
            self.mark_ready(slot);
        }
        if replies > u32::from(self.limits.cli_proto) {
            self.close(slot, CloseReason::ReplyOverflow, "");
        }
    }

    /// Sends a directory message; a home is often here.
    fn route(&mut self, to: ShardId, message: Message) {
        if to == self.id {
            self.local.push_back(message);
        } else {
            self.outgoing[usize::from(to.0)].messages.push_back(message);
        }
    }

    /// Sends a part of a push. `false`: the queue towards `to` is full.
    fn route_push(&mut self, to: ShardId, message: Message) -> bool {
        debug_assert!(message.is_push() && to != self.id);
        let outgoing = &mut self.outgoing[usize::from(to.0)];
        if outgoing.pushes >= self.limits.mesh_backlog {
            return false;
        }
        outgoing.pushes += 1;
        outgoing.messages.push_back(message);
        true
    }

    fn drain(&mut self) {
        self.is_draining = true;
        for slot in 0..self.conns.end() {
            if self.conns.occupied(slot) {
                self.close(slot, CloseReason::Draining, "");
            }
        }
        self.report_drained();
    }

    fn report_drained(&mut self) {
        if self.is_draining && self.conns.len() == 0 && !self.drained_reported {
            self.drained_reported = true;
            self.reports.push_back(Report::Drained { shard: self.id });
        }
    }

    fn snapshot(&mut self, call: CallId) {
        let counters = Box::new(self.counters());
        self.reports.push_back(Report::Snapshot { call, shard: self.id, counters });
    }

    /// Logic's answer to [`Shard::poll_auth`]. A refusal is a sentence for the client and the log.
    pub fn handle_auth(&mut self, conn: ConnId, answer: Result<Identity, String>) {
        if let Some(slot) = self.slot(conn) {
            self.authenticated(slot, answer);
            self.settle();
        }
    }
}

fn tick(now: Millis) -> Tick {
    Tick(u32::try_from(now.0 / TICK_MS).unwrap_or(u32::MAX))
}
