//! One session a key on all hosts.
//!
//! Each host tells the others which given keys get an owner, and when the owner's token arrived. Who holds an older connection
//! with the key ends it; who holds a younger one says so. Times are compared to the millisecond, and names of hosts
//! within one, so both hosts come to the same end.
//!
//! Clocks of hosts differ. Each message has the time of its host, and who is behind adds the difference to its own times.
//! So a client that moves to a host with a late clock still counts as younger there.
//!
//! What was told while a host did not hear it is told again: the keys that got their owner since. Of two connections with
//! one key, at least one is that young.

use std::collections::{BTreeMap, VecDeque};

use comet_core::{Millis, ShardId};

use super::engine::{Clock, Command, HostName};
use super::{HOST_ANNOUNCE_MS, HOSTS_MAX, TELL_EVERY_MS};

/// A key with the time at which its owner's token arrived.
pub type HeldKey = (Box<str>, Millis);

/// Keys in one message.
const KEYS_AT_ONCE: usize = 512;
/// Longest time for which a key waits for others, milliseconds.
const GATHER_MS: u64 = 10;
/// Keys that wait to be told. Those beyond are listed again later.
const KEYS_WAITING_MAX: usize = 16_384;
/// A host of which nothing was heard for so long may have missed something.
const SILENCE_MS: u64 = 2 * HOST_ANNOUNCE_MS;
/// What a host was told so long before it was not heard any more may not have reached it.
const MARGIN_MS: u64 = 2_000;
/// A shard that has not answered is asked again.
const SLICE_TIMEOUT_MS: u64 = 5_000;
/// Most that clocks of hosts may differ.
const LEAD_MAX_MS: u64 = 24 * 60 * 60 * 1_000;

/// Keys that connections of another host hold: see [`comet_core::Message::HeldElsewhere`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldElsewhere {
    /// The keys.
    pub keys: Vec<HeldKey>,
    /// The other host is preferred where both are of one millisecond.
    pub wins_ties: bool,
}

/// A shard is to list keys: see [`comet_core::Message::ListKeys`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyListing {
    /// Which shard.
    pub shard: ShardId,
    /// From when on they are listed.
    pub since: Millis,
    /// From which table on.
    pub table: u32,
}

struct Peer {
    heard_at: Millis,
    started: u64,
}

/// All shards list their keys one after another, a slice at a time.
struct Walk {
    at: KeyListing,
    /// When the shard is to be asked, or asked again.
    due: Millis,
    is_asked: bool,
}

pub(super) struct Sessions {
    shards: u16,
    /// The own clock at [`Millis`] 0.
    started: u64,
    /// Since when this host hears what others say, by the own clock. It is in the place of `started` for others.
    listens_since: u64,
    /// How far the clock of another host is ahead of the own one, at most.
    lead_ms: u64,
    peers: BTreeMap<HostName, Peer>,
    waiting: Vec<HeldKey>,
    waiting_until: Option<Millis>,
    walk: Option<Walk>,
    /// Keys since then are to be listed after the present walk.
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

    /// From when on another process of this host has to hear and to tell keys, in milliseconds since 1970: what this one has not heard
    /// or not told, and what comes after `now_unix_ms`.
    pub(super) fn complete_until(&self, now_unix_ms: u64) -> u64 {
        let walk = self.walk.as_ref().map(|walk| walk.at.since);
        let waiting = self.waiting.iter().map(|(_, at)| *at);
        let open = self.disconnected_at.into_iter().chain(self.walk_again).chain(walk);
        let first = open.chain(waiting).min();
        first.map_or(now_unix_ms, |first| now_unix_ms.min(self.started.saturating_add(first.0)))
    }

    /// Goes on for another process of this host, which has heard and told all keys until `stopped_unix_ms`. Others take this one for a
    /// new host for that time, and tell it the keys that got an owner since.
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

    /// A key has an owner here.
    pub(super) fn claim(&mut self, now: Millis, (key, at): HeldKey) {
        if self.waiting.len() >= KEYS_WAITING_MAX {
            return self.list_since(now, at);
        }
        self.waiting.push((key, at));
        self.waiting_until.get_or_insert(now.after(GATHER_MS));
    }

    /// What others were told lately may be lost, and nothing is heard.
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

    /// What the engine has not taken is listed again.
    pub(super) fn not_told(&mut self, now: Millis, keys: &[(Box<str>, u64)]) {
        if let Some(first) = keys.iter().map(|(_, at)| self.millis(*at)).min() {
            self.list_since(now, first);
        }
    }

    /// Another host tells its clock and keys.
    pub(super) fn hear(
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
        // It is new, and has no older connections, or another process goes on with those that it has.
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

    /// A shard has listed keys.
    pub(super) fn take_slice(
        &mut self,
        now: Millis,
        shard: ShardId,
        (keys, next): (Vec<HeldKey>, Option<u32>),
    ) {
        // One that is no longer waited for is told as well: that costs a message.
        keys.into_iter().for_each(|key| self.claim(now, key));
        let Some(walk) = self.walk.as_mut().filter(|walk| walk.is_asked && walk.at.shard == shard)
        else {
            return;
        };
        (walk.is_asked, walk.due) = (false, now.after(TELL_EVERY_MS));
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

    /// Does what is due. With `announces` the clock is told in any case.
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
            commands.push_back(Command::TellKeys { clock, keys });
        }
        commands.push_back(Command::TellKeys { clock, keys: told });
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
            // Who asks for it may not have heard what was told so far.
            self.walk_again = Some(self.walk_again.map_or(since, |other| other.min(since)));
            return;
        }
        let at = KeyListing { shard: ShardId(0), since, table: 0 };
        self.walk = Some(Walk { at, due: now.after(TELL_EVERY_MS), is_asked: false });
    }

    fn stamp(&self, at: Millis) -> u64 {
        self.started.saturating_add(self.lead_ms).saturating_add(at.0)
    }

    fn millis(&self, stamp: u64) -> Millis {
        Millis(stamp.saturating_sub(self.started.saturating_add(self.lead_ms)))
    }
}
