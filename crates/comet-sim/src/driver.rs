//! The fake driver of a shard. It keeps the contract of `Shard`'s module text, with completions in any order
//! and with any delay.

mod outgoing;
mod upgrade;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use comet_core::{
    AuthRequest, Budget, CloseHow, ConnId, Denied, Hangup, Identity, Limits, LiveConn, Message,
    MessageBudget, MessageClass, Millis, Settings, Shard, ShardId, Slot,
};

use crate::activity;
use crate::crowds::CrowdSlices;
use crate::deadlines;
use crate::drain::Drain;
use crate::env::{Env, Peer, SocketTotals};
use crate::listings::{Known, Listings};
use crate::plan::Plan;
use crate::profile;
use crate::push_callers::Door;
use crate::socket::ReceiveCompletion;
use crate::source::address;
use crate::stall_log::StallLog;
use crate::trace::trace;

pub(crate) use upgrade::Offer;

pub(crate) struct Driver {
    pub(crate) shard: Shard,
    /// Connections that hold a slot: by slot, the peer.
    slots: BTreeMap<Slot, usize>,
    /// Connected, not accepted yet.
    pub(crate) backlog: VecDeque<usize>,
    /// For push callers.
    pub(crate) door: Door,
    /// Tokens that embedded logic checks, and when it answers.
    auths: Vec<(Millis, AuthRequest)>,
    /// An inbox was full.
    must_retry: bool,
    /// Since when transmits wait that did not fit into the last turns.
    ready_since: Option<Millis>,
    /// When it last took a message from its inbox.
    message_at: Millis,
    /// The last order of a drain, or to move clients off.
    drain: Option<Drain>,
    /// Of sockets that were released.
    released: SocketTotals,
    /// It is to be handed over: nothing is accepted or received any more.
    pub(crate) is_frozen: bool,
    closes_left_behind: bool,
    /// Until then it takes no turn.
    pub(crate) stalled_until: Millis,
    pub(crate) stalls: StallLog,
    pub(crate) listings: Listings,
    pub(crate) crowds: CrowdSlices,
    /// Deadlines that were put off.
    pub(crate) spared: u64,
    /// Turns during a coalesced wait in which input stayed unread.
    pub(crate) coalesced_waits: u64,
}

impl Driver {
    /// `limits` are those of the plan, or have taken their place.
    pub(crate) fn new(shard: ShardId, plan: &Plan, limits: Arc<Limits>, now: Millis) -> Self {
        let settings = Settings {
            shard,
            shards: plan.shards,
            limits,
            logic: plan.logic,
            hash_seed: 0x5eed ^ u64::from(shard.0),
            reports_rooms: false,
        };
        Self {
            shard: Shard::new(&settings, now),
            slots: BTreeMap::new(),
            backlog: VecDeque::new(),
            door: Door::default(),
            auths: Vec::new(),
            must_retry: false,
            ready_since: None,
            message_at: Millis(0),
            drain: None,
            released: SocketTotals::default(),
            is_frozen: false,
            closes_left_behind: false,
            stalled_until: Millis(0),
            stalls: StallLog::default(),
            listings: Listings::default(),
            crowds: CrowdSlices::default(),
            spared: 0,
            coalesced_waits: 0,
        }
    }

    /// Connections that hold a slot.
    pub(crate) fn peers(&self) -> impl Iterator<Item = usize> {
        self.slots.values().copied()
    }

    /// The peer that holds `slot`.
    pub(crate) fn peer(&self, slot: Slot) -> Option<usize> {
        self.slots.get(&slot).copied()
    }

    /// Of all its sockets, the released ones included.
    pub(crate) fn socket_totals(&self, env: &Env) -> SocketTotals {
        let mut sum = self.released;
        for peer in self.peers() {
            sum.add(&env.peers[peer]);
        }
        sum
    }

    /// Input has come, or something is due.
    pub(crate) fn is_awake(&self, env: &Env) -> bool {
        let is_coalescing = self.is_coalescing(env);
        let is_active = |peer: usize| {
            let socket = &env.peers[peer].socket;
            (socket.can_receive() && !is_coalescing) || socket.can_send() || socket.can_release()
        };
        self.must_retry
            || self.shard.has_work()
            || self.shard.has_pushes()
            || self.shard.has_crowds()
            || self.shard.has_listings()
            || !self.backlog.is_empty()
            || self.shard.has_requests()
            || self.door.is_awake(&env.push_callers)
            || env.mesh.has(env.now, self.shard.id())
            || self.shard.poll_timeout().is_some_and(|due| due <= env.now)
            || self.auths.iter().any(|(due, _)| *due <= env.now)
            || self.peers().any(is_active)
    }

    /// The shard is in a coalesced wait: input may wait.
    fn is_coalescing(&self, env: &Env) -> bool {
        self.shard.poll_coalesced_wait().is_some_and(|until| env.now < until)
    }

    /// One turn of the loop: what came in, in any order, and then everything that goes out.
    pub(crate) fn turn(&mut self, env: &mut Env) -> Result<(), String> {
        self.must_retry = false;
        let is_coalescing = self.is_coalescing(env);
        self.tell_time(env)?;
        if std::mem::take(&mut self.closes_left_behind) {
            env.note_activity();
            self.shard.close_left_behind(env.plan.retry_after_ms);
        }
        let has_expired = self.shard.has_expired();
        // A driver that something else has woken may find the input or not.
        let leaves_input = is_coalescing && !has_expired && env.rng.percent(50);
        self.coalesced_waits += u64::from(leaves_input);
        for class in MessageClass::ALL {
            self.take_messages(env, class)?;
        }
        self.accept(env);
        if self.door.complete(&mut self.shard, &mut env.push_callers, &mut env.rng) {
            env.note_activity();
        }
        let mut slots: Vec<(Slot, usize)> =
            self.slots.iter().map(|(&slot, &peer)| (slot, peer)).collect();
        env.rng.shuffle(&mut slots);
        for (slot, peer) in slots {
            let operations = if env.rng.percent(50) { [0, 1, 2] } else { [1, 0, 2] };
            for operation in operations {
                if env.rng.percent(20) {
                    continue;
                }
                match operation {
                    0 if leaves_input || self.is_frozen => {}
                    0 => self.receive(env, peer),
                    1 => self.send(env, peer)?,
                    _ => self.release(env, slot, peer),
                }
            }
        }
        self.answer(env);
        let Self { shard, slots, spared, .. } = self;
        for &peer in slots.values() {
            let Peer { socket, has_backlog, .. } = &mut env.peers[peer];
            *has_backlog = socket.can_receive() || socket.can_send();
        }
        shard.spare_overdue(|conn| {
            let entry = &mut env.peers[slots[&conn.slot]];
            if entry.has_backlog {
                entry.spared_at = Some(env.now);
                *spared += 1;
            }
            entry.has_backlog
        });
        self.shard.handle_deadlines(&mut budget(env));
        if env.rng.percent(80) {
            self.shard.handle_listings(&mut budget(env), &mut &self.listings);
        }
        self.take_requests(env)?;
        self.poll(env)
    }

    fn tell_time(&mut self, env: &Env) -> Result<(), String> {
        let due = self.shard.poll_timeout();
        self.shard.handle_time(env.now);
        self.stalls.look(env.now, due, self.shard.counters().stalled_millis)
    }

    /// Takes messages of one class: some, or all. A push waits until the one before it is over.
    fn take_messages(&mut self, env: &mut Env, class: MessageClass) -> Result<(), String> {
        for _ in 0..env.rng.pick(&[1, 4, 1000]) {
            self.go_on_with_pushes(env)?;
            if class == MessageClass::Push && !self.shard.takes_pushes() {
                break;
            }
            let taken = env.mesh.take(&mut env.rng, env.now, self.shard.id(), class);
            let Some(message) = taken else { break };
            trace!(env, "{:?} <- {}", self.shard.id(), brief(&message));
            if activity::is_active_message(&message) {
                env.note_activity();
            }
            self.message_at = env.now;
            if let Message::Identified { conn, answer } = &message {
                self.note_expiry(env, *conn, answer);
            }
            let order = match message {
                Message::Drain { over_ms, .. } => Some((None, over_ms)),
                Message::MoveOff { most, over_ms, .. } if !self.shard.is_draining() => {
                    Some((most, over_ms))
                }
                _ => None,
            };
            if let Some((most, over_ms)) = order.filter(|_| !self.is_frozen) {
                let (since, connections) = (env.now, most.unwrap_or(self.slots.len() as u64));
                let (over_ms, is_all) = (over_ms.into(), most.is_none());
                self.drain = Some(Drain { since, over_ms, connections, is_all, notices: 0 });
            }
            self.listings.note(&message);
            self.shard.handle_message(message);
        }
        Ok(())
    }

    /// Takes requests of push callers: some, or all.
    fn take_requests(&mut self, env: &mut Env) -> Result<(), String> {
        for _ in 0..env.rng.pick(&[1, 4, 1000]) {
            self.go_on_with_pushes(env)?;
            if !Door::take_request(&mut self.shard) {
                break;
            }
            env.note_activity();
        }
        Ok(())
    }

    /// Goes on with pushes, or leaves them for later.
    fn go_on_with_pushes(&mut self, env: &mut Env) -> Result<(), String> {
        let mut budget_of_pushes = MessageBudget::new(self.shard.limits());
        if env.rng.percent(80) && self.shard.end_due_window(&mut budget_of_pushes) {
            env.note_activity();
        }
        while self.shard.has_pushes() && env.rng.percent(80) {
            env.note_activity();
            self.shard.handle_pushes(&mut budget(env), |_| None);
        }
        if self.shard.has_crowds() && env.rng.percent(50) {
            env.note_activity();
            if let Some(slice) = self.shard.handle_crowds() {
                self.crowds.note(slice, self.shard.limits())?;
            }
        }
        Ok(())
    }

    fn accept(&mut self, env: &mut Env) {
        if self.is_frozen {
            return;
        }
        while let Some(peer) = self.backlog.pop_front() {
            env.note_activity();
            let now = env.now;
            let entry = &mut env.peers[peer];
            let conn = self.shard.handle_accept(entry.client.profile.transport);
            trace!(env, "peer {peer} accepted as {conn:?}");
            let entry = &mut env.peers[peer];
            entry.conn = conn;
            entry.accepted_at = now;
            match conn {
                Some(conn) => self.hold(env, peer, conn),
                None => entry.socket.release(),
            }
        }
    }

    /// `peer` holds a slot from now on.
    fn hold(&mut self, env: &Env, peer: usize, conn: ConnId) {
        let before = self.slots.insert(conn.slot, peer);
        assert!(before.is_none(), "slot {} is taken", conn.slot);
        let transport = env.peers[peer].client.profile.transport;
        let known = Known { transport, address: address(peer), is_tls: peer.is_multiple_of(3) };
        self.listings.open(conn, known);
        if self.shard.limits().needs_addresses() {
            self.shard.handle_source(conn, address(peer));
        }
    }

    fn receive(&mut self, env: &mut Env, peer: usize) {
        let entry = &mut env.peers[peer];
        let conn = entry.conn.expect("accepted");
        match entry.socket.receive(&mut env.rng, env.now) {
            None => {}
            Some(ReceiveCompletion::Bytes(bytes)) => {
                entry.received_at = env.now;
                self.shard.handle_recv(conn, &bytes);
            }
            Some(ReceiveCompletion::Hangup(how)) => {
                trace!(env, "peer {peer} hangs up: {how:?}");
                self.shard.handle_hangup(conn, how);
            }
        }
    }

    fn send(&mut self, env: &mut Env, peer: usize) -> Result<(), String> {
        let entry = &mut env.peers[peer];
        let conn = entry.conn.expect("accepted");
        match entry.socket.send(&mut env.rng, env.now)? {
            None => {}
            Some(Ok(bytes)) => self.shard.handle_sent(conn, bytes),
            Some(Err(error)) => {
                trace!(env, "peer {peer}: send failed");
                self.shard.handle_send_failed(conn, Hangup::Cut(error));
            }
        }
        Ok(())
    }

    fn release(&mut self, env: &mut Env, slot: Slot, peer: usize) {
        let entry = &mut env.peers[peer];
        if !entry.socket.can_release() {
            return;
        }
        let conn = entry.conn.expect("accepted");
        // The receive under way ends; a driver may report that or not.
        if entry.socket.owes_hangup() && env.rng.percent(50) {
            self.shard.handle_hangup(conn, Hangup::Eof);
        }
        self.shard.handle_gone(conn);
        entry.socket.release();
        self.released.add(entry);
        self.slots.remove(&slot);
        self.listings.close(conn);
        trace!(env, "peer {peer} is gone");
        env.note_activity();
    }

    /// Passes on the answers of logic that are due.
    fn answer(&mut self, env: &mut Env) {
        let (due, waiting) =
            std::mem::take(&mut self.auths).into_iter().partition(|(due, _)| *due <= env.now);
        self.auths = waiting;
        for (_, request) in due {
            self.decide(env, &request);
        }
    }

    /// Notes when the token of `conn` expires, its first or another.
    fn note_expiry(&mut self, env: &mut Env, conn: ConnId, answer: &Result<Identity, Denied>) {
        if let Ok(identity) = answer
            && let Some(&peer) = self.slots.get(&conn.slot)
            && env.peers[peer].conn == Some(conn)
            && env.peers[peer].client.profile.is_renewed_by(identity, &env.plan)
            && self.shard.is_open(conn)
        {
            let expires_at = identity.expires_in_ms.map(|millis| env.now.after(millis));
            env.peers[peer].token_expires_at = expires_at;
        }
    }

    fn decide(&mut self, env: &mut Env, request: &AuthRequest) {
        env.note_activity();
        let answer = profile::auth(&request.token, &request.cookie, &env.plan);
        let answer = answer.map_err(Denied::refused);
        self.note_expiry(env, request.conn, &answer);
        self.shard.handle_auth(request.conn, answer);
    }

    fn poll(&mut self, env: &mut Env) -> Result<(), String> {
        while let Some(request) = self.shard.poll_auth() {
            match env.rng.between(0, env.plan.auth_ms_max) {
                0 => self.decide(env, &request),
                delay => self.auths.push((env.now.after(delay), request)),
            }
        }
        loop {
            // The ring is full: the other sends wait for the next turn.
            if env.rng.percent(3) {
                self.must_retry = true;
                self.ready_since.get_or_insert(env.now);
                break;
            }
            let Some(transmit) = self.shard.poll_transmit() else {
                self.ready_since = None;
                break;
            };
            let slot = transmit.conn.slot;
            let peer = *self.slots.get(&slot).ok_or("a transmit for nobody")?;
            let entry = &mut env.peers[peer];
            if entry.conn != Some(transmit.conn) {
                return Err(format!("a transmit for {:?}, which is gone", transmit.conn));
            }
            let ready_since = self.ready_since.unwrap_or(env.now);
            let bytes = transmit.slices.collect::<Vec<_>>().concat();
            entry.socket.transmit(&bytes, ready_since, env.now)?;
        }
        self.door.serve(&mut self.shard, &mut env.push_callers)?;
        while let Some((conn, how)) = self.shard.poll_close() {
            trace!(env, "shut {how:?} {conn:?}");
            let peer = *self.slots.get(&conn.slot).ok_or("a close for nobody")?;
            let entry = &mut env.peers[peer];
            let before = entry.socket.shut.replace(how);
            let is_in_order = match how {
                CloseHow::Write => before.is_none() && !entry.socket.is_sending(),
                CloseHow::Both => before != Some(CloseHow::Both),
            };
            if entry.conn != Some(conn) || !is_in_order {
                return Err(format!("{how:?} for {conn:?} after {before:?}"));
            }
        }
        if env.rng.percent(50) {
            self.pass_reports(env)?;
            self.pass_messages(env);
        } else {
            self.pass_messages(env);
            self.pass_reports(env)?;
        }
        self.poll_closed(env)
    }

    /// Nothing is overdue while the shard says that it may sleep.
    pub(crate) fn check_overdue(&self, env: &mut Env) -> Result<(), String> {
        deadlines::check_overdue(&self.shard, &self.slots, self.message_at, &self.stalls, env)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        let is_idle = self.backlog.is_empty() && self.auths.is_empty() && !self.must_retry;
        let shard = &self.shard;
        let has_pushes = shard.has_pushes() || shard.has_crowds() || shard.has_requests();
        let has_work = shard.has_work() || shard.has_unsent_counts();
        let is_still = !has_pushes && !has_work && !shard.is_gathering();
        is_idle && is_still && !shard.has_listings()
    }
}

/// Authenticated connections of all shards.
pub(crate) fn live_conns(drivers: &[Driver]) -> impl Iterator<Item = LiveConn<'_>> {
    drivers.iter().flat_map(|driver| driver.shard.live_conns())
}

/// A slice of a turn: some are too short for anything, some are long enough for everything.
fn budget(env: &mut Env) -> Budget {
    Budget::new(env.rng.pick(&[1, 5, 40, 1_000, 1_000_000]))
}

/// A message in a line of the trace: without the bytes of a push.
fn brief(message: &Message) -> String {
    let text = format!("{message:?}");
    match text.split_once(", push: ") {
        Some((head, _)) => format!("{head}, .. }}"),
        None => text,
    }
}
