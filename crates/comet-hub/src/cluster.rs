//! Hosts that push for each other through a message broker, such as NATS.
//!
//! A host begins a push of its own callers on its shards, and publishes it. Each other host that is subscribed to the
//! target begins the same push on its shards, and answers with its part of the ledger. [`Cluster`] decides which rooms
//! this host subscribes to, which hosts have to answer a push, and when their time is over. An [`Engine`] carries out
//! its commands.
//!
//! Each host says every second that it is there. A host that was silent for [`HOST_TIMEOUT_MS`] has to answer no push. Hosts
//! with members of a room tell each other, by the room's own subject. So a host with members knows the others, and
//! the first answer to a host without members names them.

mod calls;
mod engine;
mod hosts;
mod rooms;
#[cfg(test)]
mod session_tests;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use comet_core::{Millis, ShardId, Tally};

pub use calls::ClusterOutcome;
pub use engine::{
    Clock, ClusterCallId, Command, Engine, EngineCounts, Event, HostName, Part, Publication,
    ReplyTo, Target,
};

pub use sessions::{HeldElsewhere, HeldKey, KeyListing};

use calls::{Calls, Expected};
use hosts::Hosts;
use rooms::Rooms;
use sessions::Sessions;

/// Stands for other hosts where none is known and there may be some.
pub const UNKNOWN_HOSTS: &str = "*";
/// Time between two announcements of a host.
pub const HOST_ANNOUNCE_MS: u64 = 1_000;
/// A host that announced nothing for so long has to answer no push.
pub const HOST_TIMEOUT_MS: u64 = 5_000;
/// Rooms that other hosts are told of at once, and the time between two such slices: pushes find a place between them.
const TOLD_AT_ONCE: usize = 1_024;
const TELL_EVERY_MS: u64 = 50;
/// Hosts that are known at once, at most.
const HOSTS_MAX: usize = 1_024;
/// Pushes whose answers may be waited for at once. Others are published, and their callers told that no other host's part is known.
pub const CLUSTER_CALLS_MAX: usize = 16_384;

/// The decisions of one host. `C` is whatever its owner keeps with a push.
pub struct Cluster<C> {
    host: HostName,
    is_connected: bool,
    subscribes_rooms: bool,
    hosts: Hosts,
    rooms: Rooms,
    calls: Calls<C>,
    /// `None`: each host has its own owners of keys.
    sessions: Option<Sessions>,
    next_announcement: Millis,
    /// Rooms that other hosts are still to be told of, and when the next of them are.
    untold: VecDeque<Arc<str>>,
    next_telling: Millis,
    /// The engine has missed a command about subscriptions.
    must_subscribe: bool,
    commands: VecDeque<Command>,
    counts: ClusterCounts,
}

/// What a [`Cluster`] has counted since it began; a gauge where the text says "now".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClusterCounts {
    /// Other hosts, now.
    pub hosts: u64,
    /// Rooms with members on this host, now.
    pub rooms: u64,
    /// Pushes of this host's callers that were published.
    pub published: u64,
    /// Those that were not, because there was no connection.
    pub not_published: u64,
    /// Pushes of other hosts that were begun here.
    pub received: u64,
    /// Pushes of other hosts that were refused here.
    pub refused: u64,
    /// Parts of other hosts that came in time.
    pub parts: u64,
    /// Parts that came when their call was over.
    pub late_parts: u64,
    /// Hosts that did not answer a push in time.
    pub silent: u64,
    /// Keys with an owner here that other hosts were told of.
    pub keys_told: u64,
    /// Keys with an owner on another host that this one was told of.
    pub keys_heard: u64,
}

impl<C> Cluster<C> {
    /// A host without a connection so far. With `subscribes_rooms` it gets the pushes to rooms that have members here, and
    /// without it those to all rooms.
    #[must_use]
    pub fn new(host: HostName, subscribes_rooms: bool) -> Self {
        let mut commands = VecDeque::new();
        if !subscribes_rooms {
            commands.push_back(Command::SubscribeAllRooms);
        }
        Self {
            host,
            is_connected: false,
            subscribes_rooms,
            hosts: Hosts::default(),
            rooms: Rooms::default(),
            calls: Calls::new(),
            sessions: None,
            next_announcement: Millis(0),
            untold: VecDeque::new(),
            next_telling: Millis(0),
            must_subscribe: false,
            commands,
            counts: ClusterCounts::default(),
        }
    }

    /// A key has one owner on all hosts, and not one on each. The host has so many shards, and `unix_ms` is the time at [`Millis`] 0.
    #[must_use]
    pub fn with_sessions(self, shards: u16, unix_ms: u64) -> Self {
        Self { sessions: Some(Sessions::new(shards, unix_ms)), ..self }
    }

    /// The name of this host.
    #[must_use]
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> ClusterCounts {
        let (hosts, rooms) = (self.hosts.len() as u64, self.rooms.len() as u64);
        let (keys_told, keys_heard) =
            self.sessions.as_ref().map_or((0, 0), |it| (it.keys_told, it.keys_heard));
        ClusterCounts { hosts, rooms, keys_told, keys_heard, ..self.counts }
    }

    /// Whether the engine has a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// What the engine is to do next.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// A push whose answers are complete, or whose time is over.
    pub fn poll_outcome(&mut self) -> Option<(C, ClusterOutcome)> {
        self.calls.poll_outcome()
    }

    /// A room got its first member on this host, or lost its last.
    pub fn set_interest(&mut self, room: &Arc<str>, has_members: bool) {
        let changed = if has_members { self.rooms.insert(room) } else { self.rooms.remove(room) };
        if !changed {
            return;
        }
        // Without a connection nothing is told: the next one begins with all rooms.
        if !self.is_connected {
            return;
        }
        if self.subscribes_rooms {
            let room = Arc::clone(room);
            self.commands.push_back(match has_members {
                true => Command::Subscribe { room },
                false => Command::Unsubscribe { room },
            });
        }
        let room = Arc::clone(room);
        self.commands.push_back(Command::TellInterest { room, has_members });
    }

    /// A given key has an owner here.
    pub fn claim(&mut self, now: Millis, key: HeldKey) {
        // Without a connection it is listed when there is one.
        if self.is_connected
            && let Some(sessions) = &mut self.sessions
        {
            sessions.claim(now, key);
        }
    }

    /// A shard has listed keys, and goes on with a table if there is another.
    pub fn take_keys(&mut self, now: Millis, shard: ShardId, keys: (Vec<HeldKey>, Option<u32>)) {
        if self.is_connected
            && let Some(sessions) = &mut self.sessions
        {
            sessions.take_slice(now, shard, keys);
        }
    }

    /// Keys of another host, for their homes.
    pub fn poll_held_elsewhere(&mut self) -> Option<HeldElsewhere> {
        self.sessions.as_mut()?.poll_held()
    }

    /// A shard that is to list keys.
    pub fn poll_key_listing(&mut self) -> Option<KeyListing> {
        self.sessions.as_mut()?.poll_listing()
    }

    /// Other hosts, as far as they are known.
    pub fn other_hosts(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.names()
    }

    /// Publishes a push of this host's callers. The outcome is ready at once if no host is to answer, or there is no connection.
    pub fn begin(&mut self, (now, limit_ms): (Millis, u64), publication: Publication, caller: C) {
        if !self.is_connected {
            self.counts.not_published += 1;
            let mut hosts: Vec<HostName> = self.hosts.names().cloned().collect();
            if hosts.is_empty() {
                // There may be others. Nobody has said so, for want of a connection.
                hosts.push(UNKNOWN_HOSTS.into());
            }
            return self.calls.end_unanswered(caller, hosts);
        }
        self.counts.published += 1;
        let room = match &publication.target {
            Target::Room(room) => Some(Arc::clone(room)),
            _ => None,
        };
        let expected = match &room {
            Some(room) if self.subscribes_rooms && self.hosts.len() > 0 => {
                match self.rooms.peers(room) {
                    Some(peers) if !peers.is_empty() => Expected::Hosts(peers.to_vec()),
                    // Nobody else has members, or has said so: the first answer tells, or the engine.
                    _ => Expected::AnyOf(self.hosts.shared_names()),
                }
            }
            _ => Expected::Hosts(self.hosts.names().cloned().collect()),
        };
        let call = self.calls.open(now.after(limit_ms), (room, expected), caller);
        self.commands.push_back(Command::Publish { publication, call });
    }

    /// The engine has not taken the command to publish this push.
    pub fn not_published(&mut self, call: Option<ClusterCallId>) {
        self.counts.not_published += 1;
        if let Some(call) = call {
            self.calls.fail(call);
        }
    }

    /// A push of another host was begun here.
    pub fn note_received(&mut self) {
        self.counts.received += 1;
    }

    /// A push of another host was refused here. Its caller learns that this host has not answered.
    pub fn note_refused(&mut self) {
        self.counts.refused += 1;
    }

    /// The part of this host in a push of another one, for its answer.
    #[must_use]
    pub fn part(&self, target: &Target, tally: Tally) -> Part {
        let hosts = match target {
            Target::Room(room) => self.rooms.peers(room).unwrap_or_default().to_vec(),
            _ => Vec::new(),
        };
        Part { host: self.host.clone(), tally, hosts }
    }

    /// Takes an event that concerns no push to be begun here. Pushes are for the caller.
    pub fn handle_event(&mut self, now: Millis, event: Event) {
        match event {
            Event::Connected => self.connected(now),
            Event::Disconnected => {
                self.is_connected = false;
                self.calls.end_all();
                if let Some(sessions) = &mut self.sessions {
                    sessions.disconnect(now);
                }
            }
            Event::Answered { call, part } => match self.calls.add(&self.host, call, part) {
                true => self.counts.parts += 1,
                false => self.counts.late_parts += 1,
            },
            Event::NoResponders { call } => self.calls.end_without_others(call),
            Event::NotPublished { call } => self.not_published(Some(call)),
            Event::Announced { host } if host != self.host => {
                if self.hosts.note(host, now) {
                    // It is new, or was taken for dead and dropped from the rooms. It does not know this one.
                    self.next_announcement = now;
                    self.tell_all_rooms();
                }
            }
            Event::Left { host } => self.drop_host(&host),
            Event::Interest { host, room, has_members, asks } if host != self.host => {
                let is_ours = match has_members {
                    true => self.hosts.knows(&host) && self.rooms.add_peer(&room, &host),
                    false => self.rooms.remove_peer(&room, &host),
                };
                if is_ours && asks && has_members {
                    self.commands.push_back(Command::AnswerInterest { room, to: host });
                }
            }
            Event::Keys { host, clock, keys } if host != self.host => {
                if let Some(sessions) = &mut self.sessions {
                    sessions.hear(now, (&self.host, host), clock, keys);
                }
            }
            Event::Keys { .. }
            | Event::Announced { .. }
            | Event::Interest { .. }
            | Event::Push { .. } => {}
        }
    }

    /// The engine has not taken this command. What it says of rooms is told again.
    pub fn not_told(&mut self, now: Millis, command: Command) {
        match command {
            Command::TellKeys { keys, .. } => {
                if let Some(sessions) = &mut self.sessions {
                    sessions.not_told(now, &keys);
                }
            }
            Command::TellInterest { room, .. } | Command::AnswerInterest { room, .. } => {
                self.untold.push_back(room);
            }
            Command::Subscribe { .. }
            | Command::Unsubscribe { .. }
            | Command::SubscribeOnly { .. } => {
                self.must_subscribe = true;
            }
            _ => {}
        }
    }

    /// Says that this host goes, for those that are not to wait for its answers.
    pub fn leave(&mut self) {
        self.commands.push_back(Command::Leave);
    }

    /// Does what is due. To be called again at [`Cluster::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Millis) {
        // Without a connection nobody is heard, and nothing is known.
        let silent = if self.is_connected { self.hosts.expire(now) } else { Vec::new() };
        for host in silent {
            self.rooms.drop_host(&host);
            self.calls.drop_host(&host);
        }
        let Self { calls, rooms, counts, untold, .. } = self;
        calls.end_late(now, |room, host| {
            counts.silent += 1;
            // It may have no members any more. Hosts with members answer when they are asked again.
            if let Some(room) = room
                && rooms.remove_peer(room, host)
            {
                untold.push_back(Arc::clone(room));
            }
        });
        if !self.is_connected {
            return;
        }
        let announces = now >= self.next_announcement;
        if let Some(sessions) = &mut self.sessions {
            sessions.handle_timeout(now, announces, &mut self.commands);
        }
        if announces {
            self.next_announcement = now.after(HOST_ANNOUNCE_MS);
            self.commands.push_back(Command::Announce);
            if std::mem::take(&mut self.must_subscribe) {
                self.subscribe_only();
            }
        }
        if now >= self.next_telling && !self.untold.is_empty() {
            self.next_telling = now.after(TELL_EVERY_MS);
            let slice = self.untold.len().min(TOLD_AT_ONCE);
            for room in self.untold.drain(..slice) {
                if self.rooms.peers(&room).is_some() {
                    self.commands.push_back(Command::TellInterest { room, has_members: true });
                }
            }
        }
    }

    /// When [`Cluster::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let announcement = self.is_connected.then_some(self.next_announcement);
        let expiry = self.hosts.next_expiry().filter(|_| self.is_connected);
        let telling = (self.is_connected && !self.untold.is_empty()).then_some(self.next_telling);
        let sessions = self.sessions.as_ref().filter(|_| self.is_connected);
        let sessions = sessions.and_then(Sessions::poll_timeout);
        [announcement, expiry, telling, sessions, self.calls.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// A connection begins. What other hosts said while there was none is not known, so the rooms are told anew.
    fn connected(&mut self, now: Millis) {
        self.is_connected = true;
        self.next_announcement = now;
        self.must_subscribe = false;
        if let Some(sessions) = &mut self.sessions {
            sessions.connect(now);
        }
        self.hosts.renew(now);
        self.rooms.forget_peers();
        self.subscribe_only();
        self.tell_all_rooms();
    }

    fn subscribe_only(&mut self) {
        if self.subscribes_rooms {
            let rooms = self.rooms.names().cloned().collect();
            self.commands.push_back(Command::SubscribeOnly { rooms });
        }
    }

    fn tell_all_rooms(&mut self) {
        self.untold = self.rooms.names().cloned().collect();
    }

    fn drop_host(&mut self, host: &HostName) {
        self.hosts.remove(host);
        self.rooms.drop_host(host);
        self.calls.drop_host(host);
    }
}
