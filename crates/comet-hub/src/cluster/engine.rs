//! What a [`Cluster`](super::Cluster) and its message broker tell each other.

use std::sync::Arc;

use comet_core::{StreamState, Tally};

pub use super::host_name::HostName;
use super::pace::Pace;
use super::question::{Question, Told};

/// Numbers the pushes of a host, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterCallId(pub u64);

/// The client of a message broker. Events of it go to whoever made it.
pub trait Engine: Send + Sync {
    /// Begins to carry a command out. It returns at once.
    /// # Errors
    /// Returns the command if there is no room for it.
    fn submit(&self, command: Command) -> Result<(), Command>;

    /// Answers a push of another host.
    fn answer(&self, to: ReplyTo, part: Part) -> bool;

    /// An event with so many [bytes](Event::bytes) waits no longer.
    fn note_taken(&self, bytes: usize) {
        let _ = bytes;
    }

    /// Pushes and orders of other hosts wait from now on, because the shards are about to stop.
    fn hold(&self) {}

    /// They do not wait any more. Those that have come first.
    fn release(&self) {}

    /// Another process of this host holds pushes until this one is connected, and has read the stream that hosts share up to there.
    /// To be called before the engine's work begins.
    fn take_over(&self, stream: Option<StreamPlace>) {
        let _ = stream;
    }

    /// Whether all has come that the other process held: nothing is held again before.
    fn has_taken_over(&self) -> bool {
        true
    }

    /// Another process of this host goes on, also with those that wait. The work of the engine ends once it has them.
    fn withdraw(&self) {}

    /// Pushes and orders that it has given to its owner. `None`: there may be more.
    fn passed_on(&self) -> Option<u64> {
        Some(0)
    }

    /// What it has counted.
    fn counts(&self) -> EngineCounts;

    /// What it has counted of the stream that hosts share. `None`: they share none.
    fn stream_counts(&self) -> Option<StreamCounts> {
        None
    }
}

/// What an engine has counted since it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EngineCounts {
    /// Pushes and orders of other hosts that were dropped because too many waited for their reader.
    pub dropped: u64,
    /// What hosts tell each other beside these: messages that were dropped because too many or too large ones waited.
    pub dropped_notices: u64,
    /// Pushes and orders that were dropped because too many bytes waited.
    pub dropped_bytes: u64,
    /// Messages that its client dropped before they came to a queue, as far as it says so.
    pub dropped_early: u64,
    /// Messages that are none of comet's, by their subject or their headers.
    pub invalid: u64,
    /// What this host had to tell and did not, because too much waited or there was no connection.
    pub untold: u64,
    /// Times that a connection ended.
    pub disconnects: u64,
}

impl EngineCounts {
    /// Messages that were dropped and may have told of rooms. Pushes and orders tell nothing of them: their hosts notice that an answer is
    /// missing.
    #[must_use]
    pub fn lost_notices(&self) -> u64 {
        self.dropped_notices + self.dropped_early
    }
}

/// Where the answer to a push goes, as the broker named it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplyTo(pub Box<str>);

/// Who gets a push.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The members of a room.
    Room(Arc<str>),
    /// The connections that hold these keys.
    Keys(Arc<[Box<str>]>),
    /// The sessions of these users.
    Users(Arc<[i64]>),
    /// Everybody.
    All,
}

/// A push as hosts publish it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// Who gets it.
    pub target: Target,
    /// The operation that a connection must accept.
    pub accepts: i32,
    /// The operation of its frame.
    pub operation: i32,
    /// The version of its frame; 0: the usual one.
    pub version: i32,
    /// The sequence of its frame.
    pub sequence: i32,
    /// See [`comet_core::Push::collapse_id`]; empty: none.
    pub collapse_id: Box<str>,
    /// The body of its frame.
    pub body: Vec<u8>,
    /// Of [`Target::All`]: it visits connections one after the other. `None`: it goes to all at once.
    pub paced: Option<Box<Pace>>,
}

/// Whom an order concerns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OrderTarget {
    /// The members of a room.
    Room(Box<str>),
    /// The connections that hold these keys.
    Keys(Vec<String>),
    /// The sessions of these users.
    Users(Vec<i64>),
    /// Those from an address or a network.
    Network(Box<str>),
}

/// What becomes of connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// They are closed.
    Kick {
        /// A sentence for the clients; empty: none.
        reason: String,
        /// How long they should wait before they connect again; 0: they are told no time.
        retry_after_ms: u32,
    },
    /// They enter or leave rooms.
    ChangeRooms {
        /// Which rooms.
        rooms: Vec<String>,
        /// They are entered.
        is_join: bool,
    },
}

/// What all hosts are to do with connections. They answer as to a push.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// They close them, or change their rooms.
    Change {
        /// Which connections.
        target: OrderTarget,
        /// What becomes of them.
        action: Action,
    },
    /// They tell something about them.
    Tell(Question),
    /// They end the paced broadcast of this name, wherever it is under way.
    CancelBroadcast {
        /// Its name.
        name: Arc<str>,
    },
}

/// What became of a push on one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The host.
    pub host: HostName,
    /// Its part.
    pub tally: Tally,
    /// Other hosts that it knows to have members of the room.
    pub hosts: Vec<HostName>,
    /// There may be more such hosts, which it has not heard of yet.
    pub may_miss_hosts: bool,
    /// Of [`Order::Tell`]: its answer.
    pub told: Told,
}

/// The clock of a host, in milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clock {
    /// When the message was made.
    pub now: u64,
    /// Since when the host hears what others say, by its own clock: mostly since it started.
    pub started: u64,
}

/// What the engine is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Pushes to the room are wanted.
    Subscribe {
        /// The room.
        room: Arc<str>,
    },
    /// They are not wanted any more.
    Unsubscribe {
        /// The room.
        room: Arc<str>,
    },
    /// Pushes to these rooms are wanted, and to no others.
    SubscribeOnly {
        /// The rooms.
        rooms: Vec<Arc<str>>,
    },
    /// Pushes to all rooms are wanted.
    SubscribeAllRooms,
    /// Publishes a push. With `call` the hosts are to answer.
    Publish {
        /// The push.
        publication: Publication,
        /// What the answers are to name.
        call: Option<ClusterCallId>,
    },
    /// Puts a push to a room into the stream that hosts share. All hosts are to answer, this one as well.
    Store {
        /// The push.
        publication: Publication,
        /// What the answers are to name.
        call: ClusterCallId,
    },
    /// Has all hosts carry out an order. With `call` they are to answer.
    PublishOrder {
        /// The order.
        order: Order,
        /// What the answers are to name.
        call: Option<ClusterCallId>,
    },
    /// Tells the hosts with members of the room that this one has some, or that it has none.
    TellInterest {
        /// The room.
        room: Arc<str>,
        /// Whether there are members here.
        has_members: bool,
        /// They are to say who they are.
        asks: bool,
    },
    /// Tells one host that this one has members of the room.
    AnswerInterest {
        /// The room.
        room: Arc<str>,
        /// The host that asked.
        to: HostName,
    },
    /// Asks all hosts whether they have members of the room: one with members answers the call by its part, and others say that they have none.
    AskMembers {
        /// The room.
        room: Arc<str>,
        /// The push to the room.
        call: ClusterCallId,
    },
    /// Tells the host of a push to a room that this one has no members.
    AnswerNoMembers {
        /// Where the answer to the push goes.
        to: ReplyTo,
    },
    /// Tells the host of a push or an order that this one has not begun it, and will not.
    Refuse {
        /// Where the answer goes.
        to: ReplyTo,
    },
    /// Tells all hosts that this one is there.
    Announce {
        /// It answers to pushes of the stream that hosts share.
        reads_stream: bool,
    },
    /// Tells all hosts that this one goes.
    Leave,
    /// Tells all hosts the time here, and keys that have an owner here.
    TellKeys {
        /// The time here.
        clock: Clock,
        /// Each with the time at which the owner's token arrived, in milliseconds since 1970.
        keys: Vec<(Box<str>, u64)>,
    },
}

/// What the engine has to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// There is a connection, with all subscriptions.
    Connected,
    /// There is none any more.
    Disconnected,
    /// A push of another host, or of another program.
    Push {
        /// The push.
        publication: Publication,
        /// Where the answer goes, if one is wanted.
        reply: Option<ReplyTo>,
    },
    /// An order of another host.
    Ordered {
        /// The order.
        order: Order,
        /// Where the answer goes.
        reply: ReplyTo,
    },
    /// Another host has answered a push or an order.
    Answered {
        /// Which push.
        call: ClusterCallId,
        /// Its part.
        part: Part,
    },
    /// A host wants to know whether this one has members of a room that it pushes to.
    MembersAsked {
        /// The room.
        room: Arc<str>,
        /// Where the answer to the push goes.
        reply: ReplyTo,
    },
    /// A host has no members of the room of a push.
    NoMembers {
        /// Which push.
        call: ClusterCallId,
        /// The host.
        host: HostName,
    },
    /// A host has refused a push or an order.
    Refused {
        /// Which one.
        call: ClusterCallId,
        /// The host.
        host: HostName,
    },
    /// Nobody is subscribed to the target of a push.
    NoResponders {
        /// Which push.
        call: ClusterCallId,
    },
    /// A push is in the stream that hosts share.
    Stored {
        /// Which push.
        call: ClusterCallId,
    },
    /// The stream does not take a push.
    NotStored {
        /// Which push.
        call: ClusterCallId,
        /// Why.
        reason: String,
    },
    /// A push could not be published.
    NotPublished {
        /// Which push.
        call: ClusterCallId,
    },
    /// A host is there.
    Announced {
        /// Its name.
        host: HostName,
        /// It answers to pushes of the stream that hosts share.
        reads_stream: bool,
    },
    /// A host goes.
    Left {
        /// Its name.
        host: HostName,
    },
    /// A host tells its time, and keys that have an owner there.
    Keys {
        /// The host.
        host: HostName,
        /// The time there.
        clock: Clock,
        /// Each with the time at which the owner's token arrived, in milliseconds since 1970.
        keys: Vec<(Box<str>, u64)>,
    },
    /// A host has members of a room, or none any more.
    Interest {
        /// The host.
        host: HostName,
        /// The room.
        room: Arc<str>,
        /// Whether it has members.
        has_members: bool,
        /// It wants to know who else has.
        asks: bool,
    },
}

/// What an engine has to tell of the stream, in its order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamEvent {
    /// It is read so far.
    State(StreamPlace),
    /// The next push in it.
    Push(StoredPush),
}

/// Where a host has read the stream up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamPlace {
    /// What homes know of it.
    pub state: StreamState,
    /// The stream had lost its last messages, and this host began anew behind this one; 0: it had not.
    pub cut: u64,
    /// When the stream got the last push that this host has read, in milliseconds since 1970; 0: that is not known. If another one has
    /// its sequence, the stream has lost its last messages meanwhile.
    pub seen_unix_ms: u64,
}

/// A push of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredPush {
    /// The push, to a room.
    pub publication: Publication,
    /// Its offset in the history of the room: that of its last frame.
    pub offset: u64,
    /// When the stream got it, in milliseconds since 1970.
    pub stored_unix_ms: u64,
    /// Where the answer goes, if one is wanted.
    pub answer: Option<Answer>,
}

/// Where the answer to a push of the stream goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To another host.
    To(ReplyTo),
    /// To a call of this host.
    Here(ClusterCallId),
}

/// What an engine has counted of the stream since it began; a gauge where the text says "now".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamCounts {
    /// Pushes that were read.
    pub read: u64,
    /// Messages that the stream dropped before they were read.
    pub lost: u64,
    /// Messages in the stream that are not read, now, as far as that is known.
    pub waiting: u64,
    /// What was in the stream when the host began is read, now.
    pub is_read: bool,
}

impl Event {
    /// It makes work for the shards. There may be many at once, and what else hosts tell each other must not wait behind them.
    #[must_use]
    pub fn is_push(&self) -> bool {
        matches!(self, Self::Push { .. } | Self::Ordered { .. })
    }
}
