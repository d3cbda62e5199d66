//! The interface between a [`Cluster`](super::Cluster) and its message broker.

use std::sync::Arc;

use comet_core::{StreamState, Tally};

pub use super::host_name::HostName;
use super::pace::Pace;
use super::question::{Question, QuestionReply};

/// Numbers the pushes of a host, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterCallId(pub u64);

/// The client of a message broker. Its events go to the code that created it.
pub trait Engine: Send + Sync {
    /// Begins to execute a command, and returns at once.
    /// # Errors
    /// Returns the command if there is no space for it.
    fn submit(&self, command: Command) -> Result<(), Command>;

    /// Answers a push of another host. Returns whether the answer was taken.
    fn answer(&self, to: ReplyTo, part: Part) -> bool;

    /// Notes that an event of this many [bytes](Event::bytes) has left the queue.
    fn note_taken(&self, bytes: usize) {
        let _ = bytes;
    }

    /// Holds back pushes and orders of other hosts, because the shards are about to stop.
    fn hold(&self) {}

    /// Ends the hold. The pushes and orders that waited come first.
    fn release(&self) {}

    /// Prepares for taking over from another process of this host. That process holds pushes until this one is
    /// connected and has read the shared stream up to `stream`. Call it before the engine's work begins.
    fn take_over(&self, stream: Option<StreamPosition>) {
        let _ = stream;
    }

    /// Whether all pushes held by the other process have arrived. Nothing is held again before that.
    fn has_taken_over(&self) -> bool {
        true
    }

    /// Passes the pushes that wait to another process of this host, which continues. The work of the engine ends once
    /// that process has them.
    fn withdraw(&self) {}

    /// The number of pushes and orders given to its owner. `None`: there may be more.
    fn passed_on(&self) -> Option<u64> {
        Some(0)
    }

    /// The engine's counts.
    fn counts(&self) -> EngineCounts;

    /// The counts for the shared stream. `None`: hosts share none.
    fn stream_counts(&self) -> Option<StreamCounts> {
        None
    }
}

/// What an engine has counted since it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EngineCounts {
    /// Pushes and orders of other hosts that were dropped because too many waited to be read.
    pub dropped: u64,
    /// Other messages between hosts that were dropped because too many or too large ones waited.
    pub dropped_notices: u64,
    /// Pushes and orders that were dropped because too many bytes waited.
    pub dropped_bytes: u64,
    /// Messages that the broker's client dropped before they came to a queue, as far as it reports them.
    pub dropped_early: u64,
    /// Messages whose subject or headers are not comet's.
    pub invalid: u64,
    /// Messages that this host did not send, because too many waited or there was no connection.
    pub untold: u64,
    /// Times that a connection ended.
    pub disconnects: u64,
}

impl EngineCounts {
    /// Dropped messages that may have been about rooms. Pushes and orders are not among them: their hosts notice the
    /// missing answer.
    #[must_use]
    pub fn lost_notices(&self) -> u64 {
        self.dropped_notices + self.dropped_early
    }
}

/// Where the answer to a push goes: an address named by the broker.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplyTo(pub Box<str>);

/// The receivers of a push.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The members of a room.
    Room(Arc<str>),
    /// The connections that hold these keys.
    Keys(Arc<[Box<str>]>),
    /// The sessions of these users.
    Users(Arc<[i64]>),
    /// All connections.
    All,
}

/// A push as hosts publish it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// Its receivers.
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
    /// For [`Target::All`]: the speed at which it visits connections one after the other. `None`: it goes to all at
    /// once.
    pub paced: Option<Box<Pace>>,
}

/// The connections that an order concerns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OrderTarget {
    /// The members of a room.
    Room(Box<str>),
    /// The connections that hold these keys.
    Keys(Vec<String>),
    /// The sessions of these users.
    Users(Vec<i64>),
    /// The connections from an address or a network.
    Network(Box<str>),
}

/// An action on connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Closes them.
    Kick {
        /// A sentence for the clients; empty: none.
        reason: String,
        /// How long they should wait before they connect again; 0: no time is given.
        retry_after_ms: u32,
    },
    /// Puts them into rooms, or removes them from rooms.
    ChangeRooms {
        /// Which rooms.
        rooms: Vec<String>,
        /// Whether the rooms are entered; otherwise they are left.
        is_join: bool,
    },
}

/// An order to all hosts about connections. They answer as to a push.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Close connections, or change their rooms.
    Change {
        /// Which connections.
        target: OrderTarget,
        /// The action.
        action: Action,
    },
    /// Answer a question about connections.
    Tell(Question),
    /// End the paced broadcast of this name, wherever it is under way.
    CancelBroadcast {
        /// Its name.
        name: Arc<str>,
    },
}

/// The result of a push on one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The host.
    pub host: HostName,
    /// Its tally.
    pub tally: Tally,
    /// Other hosts that it knows to have members of the room.
    pub hosts: Vec<HostName>,
    /// Whether there may be more such hosts, unknown to this one.
    pub may_miss_hosts: bool,
    /// For [`Order::Tell`]: its answer.
    pub question_reply: QuestionReply,
}

/// The clock of a host, in milliseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clock {
    /// When the message was made.
    pub now: u64,
    /// Since when the host has received what others send, by its own clock: usually since it started.
    pub started: u64,
}

/// A command to the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Subscribes to pushes to the room.
    Subscribe {
        /// The room.
        room: Arc<str>,
    },
    /// Ends the subscription.
    Unsubscribe {
        /// The room.
        room: Arc<str>,
    },
    /// Subscribes to pushes to these rooms, and to no others.
    SubscribeOnly {
        /// The rooms.
        rooms: Vec<Arc<str>>,
    },
    /// Subscribes to pushes to all rooms.
    SubscribeAllRooms,
    /// Publishes a push. With `call` the hosts have to answer.
    Publish {
        /// The push.
        publication: Publication,
        /// The call that the answers name.
        call: Option<ClusterCallId>,
    },
    /// Puts a push to a room into the shared stream. All hosts have to answer, this one included.
    Store {
        /// The push.
        publication: Publication,
        /// The call that the answers name.
        call: ClusterCallId,
    },
    /// Has all hosts carry out an order. With `call` they have to answer.
    PublishOrder {
        /// The order.
        order: Order,
        /// The call that the answers name.
        call: Option<ClusterCallId>,
    },
    /// Announces to the hosts with members of the room whether this one has some.
    AnnounceInterest {
        /// The room.
        room: Arc<str>,
        /// Whether there are members here.
        has_members: bool,
        /// Whether those hosts should answer.
        asks: bool,
    },
    /// Tells one host that this one has members of the room.
    AnswerInterest {
        /// The room.
        room: Arc<str>,
        /// The host that asked.
        to: HostName,
    },
    /// Asks all hosts whether they have members of the room. A host with members answers the call by its part; others
    /// answer that they have none.
    AskMembers {
        /// The room.
        room: Arc<str>,
        /// The push to the room.
        call: ClusterCallId,
    },
    /// Answers the host that pushed to a room that this one has no members of it.
    AnswerNoMembers {
        /// Where the answer to the push goes.
        to: ReplyTo,
    },
    /// Answers the host that sent a push or an order that this one has not begun it, and will not.
    Refuse {
        /// Where the answer goes.
        to: ReplyTo,
    },
    /// Announces this host to all others.
    Announce {
        /// Whether it answers to pushes of the shared stream.
        reads_stream: bool,
    },
    /// Announces to all hosts that this one leaves.
    Leave,
    /// Sends all hosts the time here, and keys that have an owner here.
    AnnounceKeys {
        /// The time here.
        clock: Clock,
        /// The keys, each with the time at which the owner's token arrived, in milliseconds since 1970.
        keys: Vec<(Box<str>, u64)>,
    },
}

/// An event of the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It has connected, with all subscriptions.
    Connected,
    /// It has lost its connection.
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
        /// Which push or order.
        call: ClusterCallId,
        /// Its part.
        part: Part,
    },
    /// Another host asks whether this one has members of a room that it pushes to.
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
    /// No host is subscribed to the target of a push.
    NoResponders {
        /// Which push.
        call: ClusterCallId,
    },
    /// A push is in the shared stream.
    Stored {
        /// Which push.
        call: ClusterCallId,
    },
    /// The stream refused a push.
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
    /// A host announced itself.
    Announced {
        /// Its name.
        host: HostName,
        /// Whether it answers to pushes of the shared stream.
        reads_stream: bool,
    },
    /// A host leaves.
    Left {
        /// Its name.
        host: HostName,
    },
    /// A host sent its time, and keys that have an owner there.
    Keys {
        /// The host.
        host: HostName,
        /// The time there.
        clock: Clock,
        /// The keys, each with the time at which the owner's token arrived, in milliseconds since 1970.
        keys: Vec<(Box<str>, u64)>,
    },
    /// A host has members of a room, or no longer has any.
    Interest {
        /// The host.
        host: HostName,
        /// The room.
        room: Arc<str>,
        /// Whether it has members.
        has_members: bool,
        /// Whether it asks which other hosts have members.
        asks: bool,
    },
}

/// An event of the stream, in the order of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StreamEvent {
    /// The position up to which it was read.
    State(StreamPosition),
    /// The next push in it.
    Push(StoredPush),
}

/// The position up to which a host has read the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamPosition {
    /// The homes' knowledge of the stream.
    pub state: StreamState,
    /// If the stream had lost its last messages, the offset behind which this host began anew; otherwise 0.
    pub cut: u64,
    /// When the stream got the last push that this host has read, in milliseconds since 1970; 0: unknown. If another
    /// push has its sequence number, the stream has lost its last messages meanwhile.
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
    pub reply_target: Option<ReplyTarget>,
}

/// Where the answer to a push of the stream goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplyTarget {
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
    /// Messages in the stream that are not read yet, as far as known, now.
    pub waiting: u64,
    /// Whether everything is read that was in the stream when the host began, now.
    pub is_read: bool,
}

impl Event {
    /// Whether it makes work for the shards. There may be many such events at once, and other messages between hosts
    /// must not wait behind them.
    #[must_use]
    pub fn is_push(&self) -> bool {
        matches!(self, Self::Push { .. } | Self::Ordered { .. })
    }
}
