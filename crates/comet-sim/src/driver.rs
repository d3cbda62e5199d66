//! The fake driver of a shard. It keeps the contract in the module documentation of `Shard`, with completions in any
//! order and with any delay.

mod incoming;
mod outgoing;
mod sockets;
mod tokens;
mod upgrade;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use comet_core::{
    AuthRequest, Budget, Limits, LiveConn, MessageClass, Millis, Settings, Shard, ShardId, Slot,
};

use crate::crowds::CrowdSlices;
use crate::deadlines;
use crate::drain::Drain;
use crate::env::{Env, Peer, SocketTotals};
use crate::listings::Listings;
use crate::plan::Plan;
use crate::push_callers::CallerListener;
use crate::stall_log::StallLog;

pub(crate) use upgrade::FrozenShard;

pub(crate) struct Driver {
    pub(crate) shard: Shard,
    /// The peers with connections that hold a slot, by slot.
    slots: BTreeMap<Slot, usize>,
    /// Peers that have connected and are not accepted yet.
    pub(crate) backlog: VecDeque<usize>,
    /// The sockets of push callers.
    pub(crate) caller_listener: CallerListener,
    /// Tokens that embedded logic checks, and the times of its answers.
    auths: Vec<(Millis, AuthRequest)>,
    /// An inbox was full.
    must_retry: bool,
    /// Since when transmits have waited that did not fit into the last turns.
    ready_since: Option<Millis>,
    /// When it last took a message from its inbox.
    message_at: Millis,
    /// The last order of a drain, or to move clients off.
    drain: Option<Drain>,
    /// The totals of released sockets.
    released: SocketTotals,
    /// The shard is to be handed over: nothing more is accepted or received.
    pub(crate) is_frozen: bool,
    /// Input of clients is passed to the shard, which holds it.
    holds_input: bool,
    closes_left_behind: bool,
    /// It takes no turn until then.
    pub(crate) stalled_until: Millis,
    pub(crate) stalls: StallLog,
    pub(crate) listings: Listings,
    pub(crate) crowds: CrowdSlices,
    /// The number of postponed deadlines.
    pub(crate) postponed: u64,
    /// Turns during a coalesced wait in which input stayed unread.
    pub(crate) coalesced_waits: u64,
}

impl Driver {
    /// `limits` are those of the plan, or their replacement after a reload.
    pub(crate) fn new(shard: ShardId, plan: &Plan, limits: Arc<Limits>, now: Millis) -> Self {
        let settings = Settings {
            shard,
            shards: plan.shards,
            limits,
            logic: plan.logic,
            hash_seed: 0x5eed ^ u64::from(shard.0),
            has_other_hosts: plan.has_hosts,
        };
        Self {
            shard: Shard::new(&settings, now),
            slots: BTreeMap::new(),
            backlog: VecDeque::new(),
            caller_listener: CallerListener::default(),
            auths: Vec::new(),
            must_retry: false,
            ready_since: None,
            message_at: Millis(0),
            drain: None,
            released: SocketTotals::default(),
            is_frozen: false,
            holds_input: false,
            closes_left_behind: false,
            stalled_until: Millis(0),
            stalls: StallLog::default(),
            listings: Listings::default(),
            crowds: CrowdSlices::default(),
            postponed: 0,
            coalesced_waits: 0,
        }
    }

    /// The peers with connections that hold a slot.
    pub(crate) fn peers(&self) -> impl Iterator<Item = usize> {
        self.slots.values().copied()
    }

    /// The peer that holds `slot`.
    pub(crate) fn peer(&self, slot: Slot) -> Option<usize> {
        self.slots.get(&slot).copied()
    }

    /// The totals of all its sockets, including released ones.
    pub(crate) fn socket_totals(&self, env: &Env) -> SocketTotals {
        let mut sum = self.released;
        for peer in self.peers() {
            sum.add(&env.peers[peer]);
        }
        sum
    }

    /// Whether input has arrived or something is due.
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
            || self.caller_listener.is_awake(&env.push_callers)
            || env.mesh.has(env.now, self.shard.id())
            || self.shard.poll_timeout().is_some_and(|due| due <= env.now)
            || self.auths.iter().any(|(due, _)| *due <= env.now)
            || self.peers().any(is_active)
    }

    /// Whether the shard is in a coalesced wait, so that input may wait.
    fn is_coalescing(&self, env: &Env) -> bool {
        self.shard.poll_coalesced_wait().is_some_and(|until| env.now < until)
    }

    /// One turn of the loop: first what came in, in any order, then everything that goes out.
    pub(crate) fn turn(&mut self, env: &mut Env) -> Result<(), String> {
        self.must_retry = false;
        let is_coalescing = self.is_coalescing(env);
        self.tell_time(env)?;
        if std::mem::take(&mut self.closes_left_behind) {
            env.note_activity();
            self.shard.close_left_behind(env.plan.retry_after_ms);
        }
        let has_expired = self.shard.has_expired();
        // A driver that was woken by something else may or may not find the input.
        let leaves_input = is_coalescing && !has_expired && env.rng.percent(50);
        self.coalesced_waits += u64::from(leaves_input);
        for class in MessageClass::ALL {
            self.take_messages(env, class)?;
        }
        self.accept(env);
        if self.caller_listener.complete(&mut self.shard, &mut env.push_callers, &mut env.rng) {
            env.note_activity();
        }
        let mut slots: Vec<(Slot, usize)> =
            self.slots.iter().map(|(&slot, &peer)| (slot, peer)).collect();
        env.rng.shuffle(&mut slots);
        let mut buffers = env.rng.pick(&[1, 3, usize::MAX, usize::MAX]);
        for (slot, peer) in slots {
            let operations = if env.rng.percent(50) { [0, 1, 2] } else { [1, 0, 2] };
            for operation in operations {
                if env.rng.percent(20) {
                    continue;
                }
                match operation {
                    0 if leaves_input || (self.is_frozen && !self.holds_input) => {}
                    0 if buffers == 0 => {
                        let waits = env.peers[peer].socket.can_receive();
                        env.socket_faults.out_of_buffers += u64::from(waits);
                    }
                    0 => buffers -= usize::from(self.receive(env, peer)),
                    1 => self.send(env, peer)?,
                    _ => self.release(env, slot, peer),
                }
            }
        }
        self.answer(env);
        let Self { shard, slots, postponed, .. } = self;
        for &peer in slots.values() {
            let Peer { socket, has_backlog, .. } = &mut env.peers[peer];
            *has_backlog = socket.can_receive() || socket.can_send();
        }
        shard.postpone_overdue(|conn| {
            let entry = &mut env.peers[slots[&conn.slot]];
            if entry.has_backlog {
                entry.postponed_at = Some(env.now);
                *postponed += 1;
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

    fn poll(&mut self, env: &mut Env) -> Result<(), String> {
        self.poll_auths(env);
        self.poll_transmits(env)?;
        self.caller_listener.serve(&mut self.shard, &mut env.push_callers)?;
        self.poll_closes(env)?;
        if env.rng.percent(50) {
            self.pass_reports(env)?;
            self.pass_messages(env);
        } else {
            self.pass_messages(env);
            self.pass_reports(env)?;
        }
        self.poll_closed(env)
    }

    /// Checks that nothing is overdue while the shard says that it may sleep.
    pub(crate) fn check_overdue(&self, env: &mut Env) -> Result<(), String> {
        let held = (&self.stalls, self.holds_input);
        deadlines::check_overdue(&self.shard, &self.slots, self.message_at, held, env)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        let is_idle = self.backlog.is_empty() && self.auths.is_empty() && !self.must_retry;
        let shard = &self.shard;
        let has_pushes = shard.obstacles().pushes > 0 || shard.has_requests();
        let has_work = shard.has_work() || shard.has_unsent_counts();
        let is_still = !has_pushes && !has_work && !shard.is_gathering();
        is_idle && is_still && !shard.has_listings()
    }
}

/// Authenticated connections of all shards.
pub(crate) fn live_conns(drivers: &[Driver]) -> impl Iterator<Item = LiveConn<'_>> {
    drivers.iter().flat_map(|driver| driver.shard.live_conns())
}

/// The budget of a slice of a turn. Some are too short for anything, some long enough for everything.
fn budget(env: &mut Env) -> Budget {
    Budget::new(env.rng.pick(&[1, 5, 40, 1_000, 1_000_000]))
}
