//! Hosts that push for each other through a message broker, such as NATS.
//!
//! A host begins a push of its own callers on its shards, and publishes it. Each other host that is subscribed to the
//! target begins the same push on its shards, and answers with its part of the ledger. [`Cluster`] decides which rooms
//! this host subscribes to, which hosts have to answer a push, and when their time is over. An [`Engine`] executes its
//! commands.
//!
//! Each host announces itself every second. A host that was silent for [`HOST_TIMEOUT_MS`] is not waited for, and
//! pushes name it as unanswered for another [`HOST_FORGOTTEN_MS`]. Hosts with members of a room tell each other by the
//! room's own subject. So a host with members knows the others, and the first answer to a host without members names
//! them.

mod bytes;
mod calls;
mod engine;
mod hand_over;
mod host_name;
mod hosts;
mod losses;
mod pace;
mod pushes;
mod question;
mod rooms;
#[cfg(test)]
mod session_tests;
mod sessions;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use comet_core::{Jitter, Millis, ShardId};

pub use bytes::keys_bytes;
pub use calls::{ClusterOutcome, NotStored, add_counts};
pub use engine::{
    Action, Clock, ClusterCallId, Command, Engine, EngineCounts, Event, HostName, Order,
    OrderTarget, Part, Publication, ReplyTarget, ReplyTo, StoredPush, StreamCounts, StreamEvent,
    StreamPosition, Target,
};

pub use hand_over::ClusterHandOver;
pub use pace::Pace;
pub use question::{
    HostMember, MembersCursor, Page, Pages, Question, QuestionReply, merge_members, merge_rooms,
};
pub use sessions::{HeldElsewhere, HeldKey, KeyListing};

use calls::{Added, Calls};
use hosts::{Hosts, Noted};
use losses::Losses;
use rooms::Rooms;
use sessions::Sessions;

/// Stands for other hosts where none is known but some may exist.
pub const UNKNOWN_HOSTS: &str = "*";
/// Time between two announcements of a host.
pub const HOST_ANNOUNCE_MS: u64 = 1_000;
/// A host that announced nothing for this long is not expected to answer any push.
pub const HOST_TIMEOUT_MS: u64 = 5_000;
/// How long such a host is named as unanswered. It may be alive while the connection of one side is dead: a client of a
/// broker notices that within some 20 s.
pub const HOST_FORGOTTEN_MS: u64 = 60_000;
/// A host without a turn for this long has missed what others sent meanwhile.
const STALL_MS: u64 = 2 * HOST_ANNOUNCE_MS;
/// This long after all hosts were asked, it is certain which of them have members of a room, if no notice was lost and
/// no new host appeared since. Until then a push to the room asks all hosts.
pub const SETTLE_MS: u64 = HOST_TIMEOUT_MS;
/// Most rooms announced to other hosts at once, and the time between two such slices, in which pushes are sent.
const ANNOUNCED_AT_ONCE: usize = 1_024;
const ANNOUNCE_EVERY_MS: u64 = 50;
/// When hosts come back after this one has connected, all its rooms are announced after a delay within this range from
/// the first of them. So they are announced once even if all hosts have lost their connections.
const MEET_AGAIN_MS: RangeInclusive<u32> = 1_000..=2_000;
/// Most hosts known at once.
const HOSTS_MAX: usize = 1_024;
/// Most pushes whose answers are waited for at once. Further pushes are published, and their callers are told that the
/// part of other hosts is unknown.
pub const CLUSTER_CALLS_MAX: usize = 16_384;

/// The decisions of one host. `C` is whatever its owner keeps with a push.
pub struct Cluster<C> {
    host: HostName,
    is_connected: bool,
    subscribes_rooms: bool,
    hosts: Hosts,
    rooms: Rooms,
    calls: Calls<C>,
    /// Pushes of other hosts that were begun here and are not answered yet.
    under_way: HashSet<ReplyTo>,
    /// The time of the latest turn.
    last_turn: Millis,
    /// Until then there may be hosts that have not had time to announce themselves.
    introduced_at: Millis,
    /// A connection that begins before this time continues for the former process of this host, which knew all hosts.
    goes_on_until: Option<Millis>,
    /// Until then hosts may have members of any room without having announced it.
    settled_at: Millis,
    losses: Losses,
    /// When all rooms are announced again. Until then the knowledge about other hosts' rooms is not relied on.
    retell_at: Option<Millis>,
    jitter: Jitter,
    /// Whether this host reads the shared stream without delay, and so answers to its pushes.
    reads_stream: bool,
    /// The owners of keys on all hosts. `None`: each host has its own owners.
    sessions: Option<Sessions>,
    next_announcement: Millis,
    /// When the next waiting rooms are announced.
    next_announcing: Millis,
    /// The engine did not take a command about subscriptions.
    must_subscribe: bool,
    commands: VecDeque<Command>,
    counts: ClusterCounts,
}

/// What a [`Cluster`] has counted since it began; a gauge where the text says "now".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClusterCounts {
    /// Other hosts, now.
    pub hosts: u64,
    /// Hosts that read the shared stream without delay, now; this host is counted as well.
    pub stream_hosts: u64,
    /// Rooms with members on this host, now.
    pub rooms: u64,
    /// Pushes of this host's callers that were published.
    pub published: u64,
    /// Pushes that were not published for lack of a connection.
    pub not_published: u64,
    /// Pushes of other hosts that were begun or refused here.
    pub received: u64,
    /// Pushes of other hosts that were refused here.
    pub refused: u64,
    /// Pushes of other hosts that were begun here and whose cores did not report in time.
    pub unreported: u64,
    /// Parts of other hosts that came in time.
    pub parts: u64,
    /// Parts that came when their call was over.
    pub late_parts: u64,
    /// Hosts that outcomes named as unanswered, a host for each call.
    pub silent: u64,
    /// Keys with an owner here that other hosts were told of.
    pub keys_told: u64,
    /// Keys with an owner on another host that this one was told of.
    pub keys_heard: u64,
}

impl<C> Cluster<C> {
    /// A host without a connection so far. With `subscribes_rooms` it gets only pushes to rooms that have members here,
    /// otherwise those to all rooms. Each process has its own `seed`, so that hosts do not act at the same times.
    #[must_use]
    pub fn new(host: HostName, subscribes_rooms: bool, seed: u64) -> Self {
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
            under_way: HashSet::new(),
            last_turn: Millis(0),
            introduced_at: Millis(0),
            goes_on_until: None,
            settled_at: Millis(0),
            losses: Losses::default(),
            retell_at: None,
            jitter: Jitter::new(seed),
            reads_stream: false,
            sessions: None,
            next_announcement: Millis(0),
            next_announcing: Millis(0),
            must_subscribe: false,
            commands,
            counts: ClusterCounts::default(),
        }
    }

    /// Gives each key one owner over all hosts, instead of one on each. The host has `shards` shards, and `unix_ms` is
    /// the time at [`Millis`] 0.
    #[must_use]
    pub fn with_sessions(self, shards: u16, unix_ms: u64) -> Self {
        Self { sessions: Some(Sessions::new(shards, unix_ms)), ..self }
    }

    /// The name of this host.
    #[must_use]
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// The counts.
    #[must_use]
    pub fn counts(&self) -> ClusterCounts {
        let (hosts, rooms) = (self.hosts.len() as u64, self.rooms.len() as u64);
        let (keys_told, keys_heard) =
            self.sessions.as_ref().map_or((0, 0), |it| (it.keys_told, it.keys_heard));
        let others = self.hosts.names_by_stream(true).count() as u64;
        let stream_hosts = others + u64::from(self.reads_stream);
        let silent = self.calls.silent();
        ClusterCounts { hosts, stream_hosts, rooms, silent, keys_told, keys_heard, ..self.counts }
    }

    /// Whether the engine has a connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// The next command for the engine.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The next push whose answers are complete, or whose time is over.
    pub fn poll_outcome(&mut self) -> Option<(C, ClusterOutcome)> {
        self.calls.poll_outcome()
    }

    /// Notes that a room got its first member on this host, or lost its last.
    pub fn set_interest(&mut self, now: Millis, room: &Arc<str>, has_members: bool) {
        let changed = match has_members {
            true => self.rooms.insert(room),
            false => self.rooms.remove(room),
        };
        if !changed {
            return;
        }
        // Without a connection nothing is announced: a new connection begins with all rooms.
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
        if has_members {
            self.rooms.note_asked(now, room);
        }
        let (room, asks) = (Arc::clone(room), has_members);
        self.commands.push_back(Command::AnnounceInterest { room, has_members, asks });
    }

    /// Notes that a key named by logic has an owner here.
    pub fn claim(&mut self, now: Millis, key: HeldKey) {
        // Without a connection the key is listed when there is one.
        if self.is_connected
            && let Some(sessions) = &mut self.sessions
        {
            sessions.claim(now, key);
        }
    }

    /// Takes keys that a shard has listed. The shard continues with the next table if there is one.
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

    /// The next shard that must list keys.
    pub fn poll_key_listing(&mut self) -> Option<KeyListing> {
        self.sessions.as_mut()?.poll_listing()
    }

    /// All known other hosts, the silent ones included.
    pub fn other_hosts(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.names().chain(self.hosts.silent_names())
    }

    /// Handles an event. Pushes and orders, which must begin here, are the caller's task.
    pub fn handle_event(&mut self, now: Millis, event: Event) {
        match event {
            Event::Connected => self.connected(now),
            Event::Disconnected => {
                self.is_connected = false;
                self.calls.end_all(self.hosts.heard());
                if let Some(sessions) = &mut self.sessions {
                    sessions.disconnect(now);
                }
            }
            Event::Answered { call, part } => {
                let added = self.calls.add(&self.host, call, part);
                match added {
                    Added::Late => self.counts.late_parts += 1,
                    _ => self.counts.parts += 1,
                }
                self.ask_whom_it_may_miss(call, added);
            }
            Event::Refused { call, host } => {
                let added = self.calls.refuse(&self.host, call, host);
                self.ask_whom_it_may_miss(call, added);
            }
            Event::NoMembers { call, host } => self.calls.excuse(call, host),
            Event::MembersAsked { room, reply } => {
                if !self.rooms.has(&room) && !self.under_way.contains(&reply) {
                    self.commands.push_back(Command::AnswerNoMembers { to: reply });
                }
            }
            Event::Stored { call } => self.calls.note_stored(call),
            Event::NotStored { call, reason } => _ = self.calls.refuse_stored(call, &reason),
            Event::NoResponders { call }
                if self.calls.refuse_stored(call, "no stream takes it") => {}
            Event::NoResponders { call } => match self.calls.room(call).cloned() {
                // A host with members may have lost its connection a moment ago.
                Some(room) if !self.is_known(now, &room) => {
                    if self.calls.ask_others(call) {
                        self.commands.push_back(Command::AskMembers { room, call });
                    }
                }
                _ => self.calls.end_without_others(call),
            },
            Event::NotPublished { call } => self.not_published(Some(call)),
            Event::Announced { host, reads_stream } if host != self.host => {
                match self.hosts.note(host, reads_stream, now) {
                    Noted::IsNew => {
                        // If the host was considered dead, it was dropped from the rooms. It does not know this host.
                        self.next_announcement = now;
                        self.unsettle(now);
                        self.rooms.announce_all();
                    }
                    // The host has missed what was announced before its connection, and announcing its rooms may take
                    // it long.
                    Noted::IsBack => {
                        self.unsettle(now);
                        let at = now.after(self.jitter.within(MEET_AGAIN_MS).into());
                        self.retell_at = Some(self.retell_at.map_or(at, |other| other.min(at)));
                    }
                    Noted::Again => {}
                }
            }
            Event::Left { host } => self.drop_host(&host, now),
            Event::Interest { host, room, has_members, asks } if host != self.host => {
                if !has_members {
                    self.rooms.remove_peer(&room, &host);
                } else if self.hosts.knows(&host) && self.rooms.add_peer(&room, &host) && asks {
                    self.commands.push_back(Command::AnswerInterest { room, to: host });
                }
            }
            Event::Keys { host, clock, keys } if host != self.host => {
                if let Some(sessions) = &mut self.sessions {
                    sessions.handle_keys(now, (&self.host, host), clock, keys);
                }
            }
            Event::Keys { .. }
            | Event::Announced { .. }
            | Event::Interest { .. }
            | Event::Push { .. }
            | Event::Ordered { .. } => {}
        }
    }

    /// Takes back a command that the engine refused. Its statements about rooms are sent again.
    pub fn handle_refused(&mut self, now: Millis, command: Command) {
        match command {
            Command::AnnounceKeys { keys, .. } => {
                if let Some(sessions) = &mut self.sessions {
                    sessions.handle_refused(now, &keys);
                }
            }
            Command::AnnounceInterest { room, asks, .. } => self.rooms.announce_again(&room, asks),
            // The repetition goes to all hosts at once and asks for no answers, because a host with too much to send
            // must not ask for more.
            Command::AnswerInterest { room, .. } => self.rooms.announce_again(&room, false),
            Command::Subscribe { .. }
            | Command::Unsubscribe { .. }
            | Command::SubscribeOnly { .. } => {
                self.must_subscribe = true;
            }
            _ => {}
        }
    }

    /// Announces that this host leaves, so that others do not wait for its answers.
    pub fn leave(&mut self) {
        self.commands.push_back(Command::Leave);
    }

    /// Does the work that is due. Call it again at [`Cluster::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Millis) {
        self.notice_stall(now);
        // Without a connection no host is heard, and nothing follows from silence.
        let heard = self.hosts.heard();
        let silent = if self.is_connected { self.hosts.expire(now) } else { Vec::new() };
        for host in silent {
            self.rooms.drop_host(&host);
            self.calls.drop_host(&host, heard);
        }
        let Self { calls, rooms, .. } = self;
        calls.end_late(now, heard, |room, host| {
            // The host may no longer have members. Hosts with members answer when they are asked again.
            if let Some(room) = room {
                rooms.doubt_peer(room, host);
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
            self.commands.push_back(Command::Announce { reads_stream: self.reads_stream });
            if std::mem::take(&mut self.must_subscribe) {
                self.subscribe_only();
            }
        }
        if self.retell_at.is_some_and(|at| at <= now) {
            self.retell_at = None;
            self.unsettle(now);
            self.rooms.announce_all();
        }
        if now >= self.next_announcing && self.rooms.announces() {
            self.next_announcing = now.after(ANNOUNCE_EVERY_MS);
            if self.rooms.announces_all() {
                self.losses.note_telling(now);
            }
            for (room, asks) in self.rooms.take_slice(now, ANNOUNCED_AT_ONCE) {
                self.commands.push_back(Command::AnnounceInterest {
                    room,
                    has_members: true,
                    asks,
                });
            }
        }
    }

    /// When [`Cluster::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let announcement = self.is_connected.then_some(self.next_announcement);
        let expiry = self.hosts.next_expiry().filter(|_| self.is_connected);
        let announcing =
            (self.is_connected && self.rooms.announces()).then_some(self.next_announcing);
        let sessions = self.sessions.as_ref().filter(|_| self.is_connected);
        let sessions = sessions.and_then(Sessions::poll_timeout);
        let retelling = self.retell_at.filter(|_| self.is_connected);
        [announcement, expiry, announcing, retelling, sessions, self.calls.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Handles a new connection. What other hosts sent without one was missed, so the rooms are announced again.
    fn connected(&mut self, now: Millis) {
        (self.is_connected, self.last_turn) = (true, now);
        self.introduced_at = match self.goes_on_until.take() {
            Some(until) if now < until => now,
            _ => now.after(HOST_ANNOUNCE_MS),
        };
        self.next_announcement = now;
        self.must_subscribe = false;
        if let Some(sessions) = &mut self.sessions {
            sessions.connect(now);
        }
        self.hosts.renew(now);
        self.retell_at = None;
        self.unsettle(now);
        self.rooms.forget_peers();
        self.subscribe_only();
        self.rooms.announce_all();
    }

    fn subscribe_only(&mut self) {
        if self.subscribes_rooms {
            let rooms = self.rooms.names().cloned().collect();
            self.commands.push_back(Command::SubscribeOnly { rooms });
        }
    }

    /// Call this wherever it matters whether other hosts were heard. A host that was stopped does not consider others
    /// silent, and does not rely on its knowledge of their rooms.
    fn notice_stall(&mut self, now: Millis) {
        let last_turn = std::mem::replace(&mut self.last_turn, now);
        if self.is_connected && last_turn.after(STALL_MS) <= now {
            self.hosts.leave_out(now.0 - last_turn.0, now);
            self.unsettle(now);
        }
    }

    fn unsettle(&mut self, now: Millis) {
        self.settled_at = self.settled_at.max(now.after(SETTLE_MS));
    }

    /// Drops a host that announced its leave.
    fn drop_host(&mut self, host: &HostName, now: Millis) {
        self.hosts.remove(host);
        self.rooms.drop_host(host);
        self.calls.drop_host(host, Some(now));
    }
}
