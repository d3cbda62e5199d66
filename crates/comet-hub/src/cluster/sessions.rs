//! One owner for each key over all hosts.
//!
//! Each host sends the others the keys named by logic that get an owner, and the time at which the owner's token
//! arrived. A host with an older connection of the key ends it; a host with a younger one replies with its own. Times
//! are compared to the millisecond, and within one millisecond the names of the hosts, so both hosts reach the same
//! decision.
//!
//! Clocks of hosts differ. Each message has the time of its host, and a host whose clock is behind adds the difference
//! to its own times. So a client that moves to a host with a late clock still counts as younger there.
//!
//! What a host missed is sent again: the keys that got their owner in that time. Of two connections with one key, at
//! least one is that young.

use std::collections::{BTreeMap, VecDeque};

use comet_core::{Millis, ShardId};

use super::engine::{Clock, Command, HostName};
use super::{ANNOUNCE_EVERY_MS, HOST_ANNOUNCE_MS, HOSTS_MAX};

/// A key with the time at which its owner's token arrived.
pub type HeldKey = (Box<str>, Millis);

/// Keys in one message.
const KEYS_AT_ONCE: usize = 512;
/// Longest time for which a key waits to be sent together with others, milliseconds.
const GATHER_MS: u64 = 10;
/// Most keys that wait to be sent. Further keys are listed again later.
const KEYS_WAITING_MAX: usize = 16_384;
/// A host that was not heard for this long may have missed something.
const SILENCE_MS: u64 = 2 * HOST_ANNOUNCE_MS;
/// Messages sent this long before a host was last heard may not have reached it.
const MARGIN_MS: u64 = 2_000;
/// A shard that has not answered for this long is asked again.
const SLICE_TIMEOUT_MS: u64 = 5_000;
/// Most by which clocks of hosts may differ.
const LEAD_MAX_MS: u64 = 24 * 60 * 60 * 1_000;

/// Keys that connections of another host hold: see [`comet_core::Message::HeldElsewhere`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldElsewhere {
    /// The keys.
    pub keys: Vec<HeldKey>,
    /// Whether the other host wins if both times are the same millisecond.
    pub wins_ties: bool,
}

/// A request to a shard to list keys: see [`comet_core::Message::ListKeys`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyListing {
    /// Which shard.
    pub shard: ShardId,
    /// The time from which on keys are listed.
    pub since: Millis,
    /// The table to begin with.
    pub table: u32,
}

struct Peer {
    heard_at: Millis,
    started: u64,
}

/// A walk in which all shards list their keys one after another, a slice at a time.
struct Walk {
    at: KeyListing,
    /// When the shard is to be asked, or asked again.
    due: Millis,
    is_asked: bool,
}

pub(super) struct Sessions {
    shards: u16,
    /// This host's clock at [`Millis`] 0.
    started: u64,
    /// Since when this host receives what others send, by its own clock. Others see it as the start of this host.
    listens_since: u64,
    /// The most by which the clock of another host is ahead of this one's.
    lead_ms: u64,
    peers: BTreeMap<HostName, Peer>,
    waiting: Vec<HeldKey>,
    waiting_until: Option<Millis>,
    walk: Option<Walk>,
    /// Keys since this time must be listed after the present walk.
    walk_again: Option<Millis>,
    disconnected_at: Option<Millis>,
    listings: VecDeque<KeyListing>,
    held: VecDeque<HeldElsewhere>,
    pub(super) keys_told: u64,
    pub(super) keys_heard: u64,
}

impl Sessions {
    pub(super) fn new(shards: u16, started: u64) -> Self {
        Self {
            shards,
            started,
            listens_since: started,
            lead_ms: 0,
            peers: BTreeMap::new(),
            waiting: Vec::new(),
            waiting_until: None,
            walk: None,
            walk_again: None,
            disconnected_at: None,
            listings: VecDeque::new(),
            held: VecDeque::new(),
            keys_told: 0,
            keys_heard: 0,
        }
    }

    pub(super) fn lead_ms(&self) -> u64 {
        self.lead_ms
    }

    /// The time from which on another process of this host must receive and send keys, in milliseconds since 1970. It
    /// covers the keys that this process missed or did not send, and those after `now_unix_ms`.
    pub(super) fn complete_until(&self, now_unix_ms: u64) -> u64 {
        let walk = self.walk.as_ref().map(|walk| walk.at.since);
        let waiting = self.waiting.iter().map(|(_, at)| *at);
        let open = self.disconnected_at.into_iter().chain(self.walk_again).chain(walk);
        let first = open.chain(waiting).min();
        first.map_or(now_unix_ms, |first| now_unix_ms.min(self.started.saturating_add(first.0)))
    }

    /// Continues for another process of this host, which has received and sent all keys until `stopped_unix_ms`. Others
    /// treat this process as a host that started at that time, and send it the keys that got an owner since.
    pub(super) fn take_over(&mut self, now: Millis, lead_ms: u64, stopped_unix_ms: u64) {
        self.lead_ms = lead_ms.min(LEAD_MAX_MS);
        self.listens_since = stopped_unix_ms;
        self.disconnected_at = Some(Millis(stopped_unix_ms.saturating_sub(self.started)).min(now));
    }

    pub(super) fn poll_held(&mut self) -> Option<HeldElsewhere> {
        self.held.pop_front()
    }

    pub(super) fn poll_listing(&mut self) -> Option<KeyListing> {
        self.listings.pop_front()
    }

    /// Notes that a key has an owner here.
    pub(super) fn claim(&mut self, now: Millis, (key, at): HeldKey) {
        if self.waiting.len() >= KEYS_WAITING_MAX {
            return self.list_since(now, at);
        }
        self.waiting.push((key, at));
        self.waiting_until.get_or_insert(now.after(GATHER_MS));
    }

    /// Notes a lost connection: recent messages to others may be lost, and nothing is received.
    pub(super) fn disconnect(&mut self, now: Millis) {
        self.disconnected_at.get_or_insert(now);
        if let Some(walk) = self.walk.take() {
            let again = self.walk_again.unwrap_or(walk.at.since);
            self.walk_again = Some(again.min(walk.at.since));
        }
        self.waiting.clear();
        self.waiting_until = None;
    }

    pub(super) fn connect(&mut self, now: Millis) {
        if let Some(lost_at) = self.disconnected_at.take() {
            let lost_at = Millis(lost_at.0.saturating_sub(MARGIN_MS));
            let since = self.walk_again.take().map_or(lost_at, |again| again.min(lost_at));
            self.list_since(now, since);
        }
    }

    /// Has keys listed again that the engine refused.
    pub(super) fn handle_refused(&mut self, now: Millis, keys: &[(Box<str>, u64)]) {
        if let Some(first) = keys.iter().map(|(_, at)| self.millis(*at)).min() {
            self.list_since(now, first);
        }
    }

    /// Handles the clock and the keys of another host.
    pub(super) fn handle_keys(
        &mut self,
        now: Millis,
        (own, host): (&HostName, HostName),
        clock: Clock,
        keys: Vec<(Box<str>, u64)>,
    ) {
        let lead_ms = clock.now.saturating_sub(self.started + now.0);
        if lead_ms <= LEAD_MAX_MS {
            self.lead_ms = self.lead_ms.max(lead_ms);
        }
        if !keys.is_empty() {
            self.keys_heard += keys.len() as u64;
            let keys = keys.into_iter().map(|(key, at)| (key, self.millis(at))).collect();
            self.held.push_back(HeldElsewhere { keys, wins_ties: host > *own });
        }
        let started = clock.started;
        let peer = self.peers.get(&host);
        let quiet_since = peer.map(|peer| peer.heard_at).filter(|at| at.after(SILENCE_MS) < now);
        // The host is new and has no older connections, or another process continues with its connections.
        let is_new = peer.is_none_or(|peer| peer.started != started);
        let new_since = is_new.then(|| self.millis(started));
        let since = quiet_since.into_iter().chain(new_since).min();
        if self.peers.len() >= HOSTS_MAX && !self.peers.contains_key(&host) {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.heard_at);
            let oldest = oldest.map(|(host, _)| HostName::clone(host));
            oldest.map(|host| self.peers.remove(&host));
        }
        self.peers.insert(host, Peer { heard_at: now, started });
        if let Some(since) = since {
            self.list_since(now, Millis(since.0.saturating_sub(MARGIN_MS)));
        }
    }

    /// Takes the keys that a shard has listed.
    pub(super) fn take_slice(
        &mut self,
        now: Millis,
        shard: ShardId,
        (keys, next): (Vec<HeldKey>, Option<u32>),
    ) {
        // A listing that is no longer awaited is sent as well, at the cost of one message.
        keys.into_iter().for_each(|key| self.claim(now, key));
        let Some(walk) = self.walk.as_mut().filter(|walk| walk.is_asked && walk.at.shard == shard)
        else {
            return;
        };
        (walk.is_asked, walk.due) = (false, now.after(ANNOUNCE_EVERY_MS));
        match next {
            Some(table) => walk.at.table = table,
            None => (walk.at.shard.0, walk.at.table) = (shard.0 + 1, 0),
        }
        if walk.at.shard.0 >= self.shards {
            self.walk = None;
            if let Some(since) = self.walk_again.take() {
                self.list_since(now, since);
            }
        }
    }

    /// Does the work that is due. With `announces` the clock is sent in any case.
    pub(super) fn handle_timeout(
        &mut self,
        now: Millis,
        announces: bool,
        commands: &mut VecDeque<Command>,
    ) {
        if let Some(walk) = &mut self.walk
            && walk.due <= now
        {
            (walk.is_asked, walk.due) = (true, now.after(SLICE_TIMEOUT_MS));
            self.listings.push_back(walk.at);
        }
        let is_due = self.waiting_until.is_some_and(|until| until <= now);
        if !announces && !is_due && self.waiting.len() < KEYS_AT_ONCE {
            return;
        }
        self.waiting_until = None;
        let clock = Clock { now: self.stamp(now), started: self.listens_since };
        let mut told: Vec<_> = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(key, at)| (key, self.stamp(at)))
            .collect();
        self.keys_told += told.len() as u64;
        while told.len() > KEYS_AT_ONCE {
            let keys = told.split_off(told.len() - KEYS_AT_ONCE);
            commands.push_back(Command::AnnounceKeys { clock, keys });
        }
        commands.push_back(Command::AnnounceKeys { clock, keys: told });
    }

    pub(super) fn poll_timeout(&self) -> Option<Millis> {
        let walk = self.walk.as_ref().map(|walk| walk.due);
        self.waiting_until.into_iter().chain(walk).min()
    }

    fn list_since(&mut self, now: Millis, since: Millis) {
        if let Some(walk) = &mut self.walk {
            if !walk.is_asked && (walk.at.shard, walk.at.table) == (ShardId(0), 0) {
                walk.at.since = walk.at.since.min(since);
                return;
            }
            // The host that asks for the walk may have missed what was sent so far.
            self.walk_again = Some(self.walk_again.map_or(since, |other| other.min(since)));
            return;
        }
        let at = KeyListing { shard: ShardId(0), since, table: 0 };
        self.walk = Some(Walk { at, due: now.after(ANNOUNCE_EVERY_MS), is_asked: false });
    }

    fn stamp(&self, at: Millis) -> u64 {
        self.started.saturating_add(self.lead_ms).saturating_add(at.0)
    }

    fn millis(&self, stamp: u64) -> Millis {
        Millis(stamp.saturating_sub(self.started.saturating_add(self.lead_ms)))
    }
}
