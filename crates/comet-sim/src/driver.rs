//! The fake driver of a shard: the contract of `Shard`'s module text, with completions in any order and
//! no sooner than it pleases the kernel.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use comet_core::{
    AuthRequest, CloseHow, CloseReason, Denied, Hangup, Message, Millis, Report, Settings, Shard,
    ShardId, Slot,
};

use crate::deadlines;
use crate::persona;
use crate::plan::Plan;
use crate::socket::Received;
use crate::trace::trace;
use crate::world::{Env, Peer};

pub(crate) struct Driver {
    pub(crate) shard: Shard,
    /// Connections that hold a slot: by slot, the peer.
    pub(crate) slots: BTreeMap<Slot, usize>,
    /// Connected, not accepted yet.
    pub(crate) backlog: VecDeque<usize>,
    /// Tokens logic looks at, and when it answers.
    auths: Vec<(Millis, AuthRequest)>,
    /// An inbox was full.
    must_retry: bool,
    /// Since when transmits wait that the last turns had no room for.
    ready_since: Option<Millis>,
    /// When it last took something from its inbox.
    pub(crate) message_at: Millis,
    /// The drain it was told of last.
    drain: Option<Drain>,
    /// Of connections that are gone.
    settled: Settled,
    /// Turns in which clients' input was left where it was.
    pub(crate) naps: u64,
}

/// A drain under way, and its goodbyes.
struct Drain {
    since: Millis,
    over_ms: u64,
    connections: u64,
    said: u64,
}

impl Drain {
    /// One more goodbye at `now`, which must not come before its time.
    fn say(&mut self, now: Millis) -> Result<(), String> {
        self.said += 1;
        let elapsed = now.0 - self.since.0;
        let Self { over_ms, connections, said, .. } = *self;
        let is_due = elapsed >= over_ms || said * over_ms <= connections * elapsed;
        let what = || format!("goodbye {said} of {connections} after {elapsed} of {over_ms} ms");
        is_due.then_some(()).ok_or_else(what)
    }
}

/// What the sockets of a shard saw, summed up.
#[derive(Clone, Copy, Default)]
pub(crate) struct Settled {
    pub(crate) pushes_taken: u64,
    pub(crate) bytes_taken: u64,
    pub(crate) bytes_received: u64,
}

impl Settled {
    fn add(&mut self, peer: &Peer) {
        self.pushes_taken += peer.socket.pushes_taken;
        self.bytes_taken += peer.socket.taken;
        self.bytes_received += peer.socket.received;
    }
}

impl Driver {
    pub(crate) fn new(shard: ShardId, plan: &Plan) -> Self {
        let settings = Settings {
            shard,
            shards: plan.shards,
            limits: Arc::new(plan.limits.clone()),
            logic: plan.logic,
            hash_seed: 0x5eed ^ u64::from(shard.0),
        };
        Self {
            shard: Shard::new(&settings, Millis(0)),
            slots: BTreeMap::new(),
            backlog: VecDeque::new(),
            auths: Vec::new(),
            must_retry: false,
            ready_since: None,
            message_at: Millis(0),
            drain: None,
            settled: Settled::default(),
            naps: 0,
        }
    }

    /// Connections that hold a slot.
    pub(crate) fn peers(&self) -> impl Iterator<Item = usize> {
        self.slots.values().copied()
    }

    /// Who holds `slot`.
    pub(crate) fn peer(&self, slot: Slot) -> Option<usize> {
        self.slots.get(&slot).copied()
    }

    /// All its sockets, those that are gone included.
    pub(crate) fn settled(&self, env: &Env) -> Settled {
        let mut sum = self.settled;
        for peer in self.peers() {
            sum.add(&env.peers[peer]);
        }
        sum
    }

    /// Something has come in, or is due.
    pub(crate) fn is_awake(&self, env: &Env) -> bool {
        let naps = self.naps(env);
        let is_active = |peer: usize| {
            let socket = &env.peers[peer].socket;
            (socket.can_receive() && !naps) || socket.can_send() || socket.can_go()
        };
        self.must_retry
            || !self.backlog.is_empty()
            || env.mesh.has(env.now, self.shard.id())
            || self.shard.poll_timeout().is_some_and(|due| due <= env.now)
            || self.auths.iter().any(|(due, _)| *due <= env.now)
            || self.peers().any(is_active)
    }

    /// What clients send may wait.
    fn naps(&self, env: &Env) -> bool {
        self.shard.poll_coalesced_wait().is_some_and(|until| env.now < until)
    }

    /// One turn of the loop: what came in, in any order, and then everything that goes out.
    pub(crate) fn turn(&mut self, env: &mut Env) -> Result<(), String> {
        self.must_retry = false;
        let naps = self.naps(env);
        self.shard.handle_time(env.now);
        let has_expired = self.shard.has_expired();
        // Woken by something else it may find what clients sent, or not.
        let leaves_input = naps && !has_expired && env.dice.percent(50);
        self.naps += u64::from(leaves_input);
        for _ in 0..env.dice.pick(&[1, 4, 1000]) {
            let Some(message) = env.mesh.take(&mut env.dice, env.now, self.shard.id()) else {
                break;
            };
            trace!(env, "{:?} <- {}", self.shard.id(), brief(&message));
            if !matches!(message, Message::Renew { .. }) {
                env.stir();
            }
            self.message_at = env.now;
            if let Message::Drain { over_ms, .. } = message {
                let (since, connections) = (env.now, self.slots.len() as u64);
                self.drain = Some(Drain { since, over_ms: over_ms.into(), connections, said: 0 });
            }
            self.shard.handle_message(message);
        }
        self.accept(env);
        let mut slots: Vec<(Slot, usize)> =
            self.slots.iter().map(|(&slot, &peer)| (slot, peer)).collect();
        env.dice.shuffle(&mut slots);
        for (slot, peer) in slots {
            let operations = if env.dice.percent(50) { [0, 1, 2] } else { [1, 0, 2] };
            for operation in operations {
                if env.dice.percent(20) && !has_expired {
                    continue;
                }
                match operation {
                    0 if leaves_input => {}
                    0 => self.receive(env, peer),
                    1 => self.send(env, peer)?,
                    _ => self.let_go(env, slot, peer),
                }
            }
        }
        self.answer(env);
        self.shard.handle_deadlines();
        self.poll(env)
    }

    fn accept(&mut self, env: &mut Env) {
        while let Some(peer) = self.backlog.pop_front() {
            env.stir();
            let now = env.now;
            let entry = &mut env.peers[peer];
            let conn = self.shard.handle_accept(entry.client.persona.transport);
            trace!(env, "peer {peer} accepted as {conn:?}");
            let entry = &mut env.peers[peer];
            entry.conn = conn;
            entry.accepted_at = now;
            match conn {
                Some(conn) => {
                    let before = self.slots.insert(conn.slot, peer);
                    assert!(before.is_none(), "slot {} is taken", conn.slot);
                }
                None => entry.socket.go(),
            }
        }
    }

    fn receive(&mut self, env: &mut Env, peer: usize) {
        let entry = &mut env.peers[peer];
        let conn = entry.conn.expect("accepted");
        match entry.socket.receive(&mut env.dice, env.now) {
            None => {}
            Some(Received::Bytes(bytes)) => {
                entry.received_at = env.now;
                self.shard.handle_recv(conn, &bytes);
            }
            Some(Received::Hangup(how)) => {
                trace!(env, "peer {peer} hangs up: {how:?}");
                self.shard.handle_hangup(conn, how);
            }
        }
    }

    fn send(&mut self, env: &mut Env, peer: usize) -> Result<(), String> {
        let entry = &mut env.peers[peer];
        let conn = entry.conn.expect("accepted");
        match entry.socket.send(&mut env.dice, env.now)? {
            None => {}
            Some(Ok(bytes)) => self.shard.handle_sent(conn, bytes),
            Some(Err(error)) => {
                trace!(env, "peer {peer}: send failed");
                self.shard.handle_send_failed(conn, error);
            }
        }
        Ok(())
    }

    fn let_go(&mut self, env: &mut Env, slot: Slot, peer: usize) {
        let entry = &mut env.peers[peer];
        if !entry.socket.can_go() {
            return;
        }
        let conn = entry.conn.expect("accepted");
        // The receive that was under way ends; a driver may tell or not.
        if entry.socket.owes_hangup() && env.dice.percent(50) {
            self.shard.handle_hangup(conn, Hangup::Eof);
        }
        self.shard.handle_gone(conn);
        entry.socket.go();
        self.settled.add(entry);
        self.slots.remove(&slot);
        trace!(env, "peer {peer} is gone");
        env.stir();
    }

    /// Logic has made up its mind about some tokens.
    fn answer(&mut self, env: &mut Env) {
        let (due, waiting) =
            std::mem::take(&mut self.auths).into_iter().partition(|(due, _)| *due <= env.now);
        self.auths = waiting;
        for (_, request) in due {
            self.decide(env, &request);
        }
    }

    fn decide(&mut self, env: &mut Env, request: &AuthRequest) {
        env.stir();
        let answer = persona::auth(&request.token, &request.cookie, &env.plan);
        self.shard.handle_auth(request.conn, answer.map_err(Denied::refused));
    }

    fn poll(&mut self, env: &mut Env) -> Result<(), String> {
        while let Some(request) = self.shard.poll_auth() {
            match env.dice.between(0, env.plan.auth_ms_max) {
                0 => self.decide(env, &request),
                delay => self.auths.push((env.now.after(delay), request)),
            }
        }
        loop {
            // A ring has room for so many sends; the others wait for the next turn.
            if env.dice.percent(3) {
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
            entry.socket.transmit(transmit.bytes, ready_since, env.now)?;
        }
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
        if env.dice.percent(50) {
            self.pass_reports(env);
            self.pass_messages(env);
        } else {
            self.pass_messages(env);
            self.pass_reports(env);
        }
        self.poll_closed(env)
    }

    fn pass_reports(&mut self, env: &mut Env) {
        while let Some(report) = self.shard.poll_report() {
            let is_news = is_news(&report);
            if let Err(report) = env.control.offer(report) {
                self.shard.return_report(*report);
                self.must_retry = true;
                return;
            }
            if is_news {
                env.stir();
            }
        }
    }

    fn pass_messages(&mut self, env: &mut Env) {
        let me = self.shard.id();
        for peer in (0..env.plan.shards).map(ShardId) {
            while let Some(message) = self.shard.poll_message(peer) {
                let dice = (&mut env.dice, env.now);
                let is_news = !matches!(message, Message::Renew { .. });
                if let Err(message) = env.mesh.send(dice, Some(me), peer, message) {
                    self.shard.return_message(peer, *message);
                    self.must_retry = true;
                    break;
                }
                if is_news {
                    env.stir();
                }
            }
        }
    }

    fn poll_closed(&mut self, env: &mut Env) -> Result<(), String> {
        while let Some(event) = self.shard.poll_closed() {
            trace!(env, "closed {event:?}");
            env.stir();
            let slot = event.conn.slot;
            let peer = *self.slots.get(&slot).ok_or("closed, and nobody there")?;
            if let Some(drain) = &mut self.drain
                && event.reason == CloseReason::Draining
            {
                drain.say(env.now)?;
            }
            deadlines::check_closed(env, peer, &event)?;
            env.peers[peer].closed = Some((event.reason, env.now));
        }
        Ok(())
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.backlog.is_empty() && self.auths.is_empty() && !self.must_retry
    }
}

/// Not what goes on for as long as clients send heartbeats.
pub(crate) fn is_news(report: &Report) -> bool {
    !matches!(report, Report::Trace(_) | Report::Heartbeat { .. })
}

/// A message in a line of the trace: without the bytes of a push.
fn brief(message: &Message) -> String {
    let text = format!("{message:?}");
    match text.split_once(", push: ") {
        Some((head, _)) => format!("{head}, .. }}"),
        None => text,
    }
}
