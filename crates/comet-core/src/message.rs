//! Messages between shards and the control thread. They are plain data because they cross threads. Messages of one
//! class between one pair of peers keep their order. There is no other order.

mod trace_event;

use std::num::NonZeroU32;
use std::sync::Arc;

use comet_proto::{Encoded, KeptSession, Position, RoomHandle};

use crate::callers::{CallerTarget, OtherHostsTally};
use crate::history::{HistoryPage, HistoryQuery, StreamState};
use crate::ids::{CallId, ConnId, LocalConnId, ShardId};
use crate::ledger::{CloseReason, Counters, Tally};
use crate::limits::Limits;
use crate::listing::{ConnPage, ConnQuery, Top};
use crate::network::Network;
use crate::operation_filter::OperationFilter;
use crate::parking::{Leaving, ParkedFrames, Rest};
use crate::source::Source;
use crate::time::{Millis, TokenTime};

pub use trace_event::{TraceEvent, TraceKind};

/// The identity of a connection, as logic gives it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// User id (goim: mid); 0 is anonymous.
    pub user: i64,
    /// The connection's key. `None`: the user's home hands out `<user>_<seq>`.
    pub key: Option<Box<str>>,
    /// The room it starts in.
    pub room: Option<Box<str>>,
    /// Further rooms that it starts in.
    pub rooms: Box<[Box<str>]>,
    /// The operations that it accepts.
    pub accepts: OperationFilter,
    /// Milliseconds without a heartbeat after which it is closed. `None`: the present [`Limits::heartbeat_ms`].
    pub heartbeat_ms: Option<u32>,
    /// Milliseconds after which its token has expired, and it is closed with [`CloseReason::TokenExpired`].
    /// `None`: never.
    pub expires_in_ms: Option<u64>,
}

/// A token to identify. Embedded logic answers with [`Shard::handle_auth`](crate::Shard::handle_auth),
/// remote logic with [`Message::Identified`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRequest {
    /// The connection that sent it.
    pub conn: ConnId,
    /// Body of the op 7.
    pub token: Box<[u8]>,
    /// The Cookie header of the upgrade; empty if there was none.
    pub cookie: Box<str>,
}

/// Why a client is not authenticated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// [`CloseReason::AuthRefused`], or [`CloseReason::LogicUnavailable`].
    pub reason: CloseReason,
    /// For the client and the log; empty if the reason says everything.
    pub sentence: Box<str>,
    /// How long the client should wait before it connects again, milliseconds. `None`: the close notice names
    /// no time.
    pub retry_after_ms: Option<u32>,
}

impl Denied {
    /// Logic refused the token; `sentence` says why.
    #[must_use]
    pub fn refused(sentence: impl Into<Box<str>>) -> Self {
        Self { reason: CloseReason::AuthRefused, sentence: sentence.into(), retry_after_ms: None }
    }
}

/// A frame for clients, built once and shared by all shards and connections; or an [`Order`] instead of a frame.
#[derive(Clone, Debug)]
pub struct Push {
    /// The operation that the accept filter looks at; for a batch (op 9) the caller's `protoOp`.
    pub operation: i32,
    /// The bytes, for both transports.
    pub frame: Encoded,
    /// The state that the frame is about. With a [`CoalesceRule`](crate::CoalesceRule) for it, a newer push to the same
    /// room replaces a waiting one with the same id.
    pub collapse_id: Option<Arc<str>>,
    /// The push's place in the room's history, set by the room's home; for a batch, the place of its last push. 0: the
    /// room keeps no history.
    pub offset: u64,
    /// The push's number among the pushes to that room, as its home counts them. Numbers are consecutive; offsets may
    /// have holes.
    pub number: u64,
    /// An order to carry out. There is no frame then.
    pub order: Option<Arc<Order>>,
}

/// What is done to connections instead of sending a frame. An order travels as a push does, behind all earlier pushes.
#[derive(Debug)]
pub enum Order {
    /// The connections are closed. The tally counts those that are closed as queued.
    Kick(Kick),
    /// The connections enter or leave rooms. The tally counts pairs of a connection and a room; a pair that changes counts
    /// as queued.
    Rooms(RoomOrder),
    /// The session of this key leaves its connection. The key's home gets the pushes that still wait for it
    /// ([`Message::Rest`]).
    Leave(Arc<str>),
}

impl Order {
    pub(crate) fn as_kick(&self) -> Option<&Kick> {
        if let Self::Kick(kick) = self { Some(kick) } else { None }
    }
}

impl Push {
    /// A frame for those that accept `operation`.
    #[must_use]
    pub fn new(operation: i32, frame: Encoded) -> Self {
        Self { operation, frame, collapse_id: None, offset: 0, number: 0, order: None }
    }

    /// An order to close connections.
    #[must_use]
    pub fn kick(kick: Kick) -> Self {
        Self::of_order(Order::Kick(kick))
    }

    /// An order to enter or leave rooms. Only for pushes to keys and to users.
    #[must_use]
    pub fn rooms(order: RoomOrder) -> Self {
        Self::of_order(Order::Rooms(order))
    }

    /// The order by which the session of `key` leaves its connection ([`Order::Leave`]).
    pub(crate) fn leaving(key: Arc<str>) -> Self {
        Self::of_order(Order::Leave(key))
    }

    fn of_order(order: Order) -> Self {
        Self { order: Some(Arc::new(order)), ..Self::new(0, Encoded::verbatim(b"")) }
    }

    /// Whether it is an order. An order has no frame and is no push in the counters.
    pub(crate) fn is_order(&self) -> bool {
        self.order.is_some()
    }

    /// The order to close connections, if it is one.
    pub(crate) fn as_kick(&self) -> Option<&Kick> {
        self.order.as_deref().and_then(Order::as_kick)
    }

    pub(crate) fn is_kick(&self) -> bool {
        self.as_kick().is_some()
    }

    /// How many offers one connection gets: one push, or the number of rooms to enter or leave.
    #[must_use]
    pub fn offers(&self) -> usize {
        match self.order.as_deref() {
            Some(Order::Rooms(order)) => order.rooms.len(),
            _ => 1,
        }
    }
}

/// Rooms that connections enter, in addition to the rooms they are in, or leave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomOrder {
    /// The rooms; no name is empty or longer than [`NAME_MAX`](crate::limits::NAME_MAX).
    pub rooms: Box<[Box<str>]>,
    /// The rooms are entered; otherwise they are left.
    pub is_join: bool,
}

/// How connections are closed with [`CloseReason::Kicked`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kick {
    /// For the clients; empty if the reason says everything.
    pub sentence: Box<str>,
    /// How long clients should wait before they connect again, milliseconds. `None`: the close notice names no time.
    pub retry_after_ms: Option<u32>,
}

/// What a room's history holds for a connection that enters the room.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The position of the latest push, or a later one if no push came since.
    pub position: Position,
    /// The [`Push::number`] of the latest push.
    pub number: u64,
    /// The position that the client named, if it named one.
    pub since: Option<Position>,
    /// How many pushes the client missed, if the history has all of them.
    pub recovered: Option<u32>,
    /// These pushes, or the first of them, as one push to the room, encoded for the connection. `None`: there are none.
    pub chunk: Option<Encoded>,
    /// The offset of the last push in the chunk.
    pub chunk_end: u64,
}

/// A key of a kept session, in a push to the key's home.
#[derive(Clone, Debug)]
pub struct KeptKey {
    /// The user that the push is for.
    pub user: i64,
    /// The key.
    pub key: Box<str>,
    /// The user's connections that may own the key. A session of any other connection is not this user's.
    pub conns: Box<[ConnId]>,
}

/// The queues between any two peers. Messages of one class keep their order. Waiting pushes hold nothing else back, so
/// clients connect, join and are counted meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageClass {
    /// Everything but pushes: registrations, joins, counts, answers, orders.
    Directory,
    /// Pushes.
    Push,
}

impl MessageClass {
    /// Both classes, in the order in which a driver takes them.
    pub const ALL: [Self; 2] = [Self::Directory, Self::Push];
}

/// A message to a shard.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variants say what their fields are for")]
pub enum Message {
    /// Control to the keys' home: deliver `push` to the connections that hold `keys`, all of which have this home.
    /// Answered with one [`Report::Tally`] and as many [`Report::PartialTally`]s as it announces.
    PushKeys { call: CallId, keys: Vec<Box<str>>, push: Push },
    /// Control to the users' home: the same for every session of `users`.
    PushUsers { call: CallId, users: Vec<i64>, push: Push },
    /// Control to the room's home: deliver `push` to the room's members, in the order of arrival here.
    PushRoom { call: CallId, room: Arc<str>, push: Push },
    /// Control to the room's home: deliver a push of the stream that hosts share to the room's members. The push has
    /// its offset; `age_ms` is the time since it entered the stream. The home drops a push that it has had before.
    PushFromStream { call: CallId, room: Arc<str>, push: Push, age_ms: u64 },
    /// Control to the room's home: this host refuses a push of the shared stream, so none of its members gets it.
    /// Answered with an empty tally.
    RefuseFromStream { call: CallId, room: Arc<str>, offset: u64 },
    /// Control to each home: how far the shared stream is read. The message comes behind the pushes that were read
    /// before, and is answered with an empty tally. `is_settled`: the stream has just been read or is another one, and
    /// all homes have been told that. So shards can ask for the positions of their rooms.
    Stream { call: CallId, state: StreamState, is_settled: bool },
    /// Control to every shard. `speed` is this shard's share in connections a second; `None` means at once. A paced
    /// broadcast is answered when it is scheduled (see [`Report::Scheduled`]).
    Broadcast { call: CallId, push: Push, speed: Option<NonZeroU32> },
    /// Control to every shard: close the connections of clients in `network`, by `push`, which is a kick. Answered with
    /// one [`Report::Tally`].
    KickNetwork { call: CallId, network: Network, push: Push },
    /// Control to every shard: end the paced broadcast of `call`. Answered with [`Report::PacedEnded`], even if it is
    /// not under way.
    CancelBroadcast { call: CallId },
    /// Control to any shard: report counters.
    Snapshot { call: CallId },
    /// Control to any shard: report the rooms whose home it is.
    Rooms { call: CallId },
    /// The same for the named rooms only; their order does not matter.
    CountRooms { call: CallId, rooms: Arc<[Arc<str>]> },
    /// Control to any shard: list connections. Answered with [`Report::Connections`].
    Connections { call: CallId, query: Arc<ConnQuery> },
    /// Control to any shard: report its top lists. Answered with [`Report::Top`].
    Top { call: CallId },
    /// Control to the room's home: report a page of the room's history. Answered with [`Report::History`].
    History { call: CallId, query: Arc<HistoryQuery> },
    /// Control to every shard: accept no new clients, and close the present ones, spread evenly over `over_ms`. Each
    /// close notice names a random time to wait, up to `retry_after_ms`; with 0 it names none. A second drain replaces
    /// the first. Answered with [`Report::Drained`] once the last connection is gone.
    Drain { over_ms: u32, retry_after_ms: u32 },
    /// Control to every shard: close `most` authenticated connections, or all connections if `None`, as a drain does.
    /// Whether new clients are accepted still depends on [`Limits::takes_clients`]. A second order replaces the first,
    /// so `Some(0)` cancels it. A shard that drains ignores the order.
    MoveOff { most: Option<u64>, over_ms: u32, retry_after_ms: u32 },
    /// Control to every shard: new limits. A deadline that is armed already stays until the connection's next event.
    /// [`Limits::buckets`] does not change.
    Configure { limits: Arc<Limits> },
    /// Control to a home: how many members its rooms have on other hosts. A room that is not named has none there.
    RemoteRoomCounts { rooms: Vec<(Arc<str>, u32)> },
    /// Control to every shard: report each given key that gets an owner after this message ([`Report::Claimed`]).
    WatchKeys,
    /// Control to a home: report the given keys whose owners' tokens arrived at `since` or later, beginning with the
    /// home's table number `table`. Answered with one [`Report::KeySlice`].
    ListKeys { since: Millis, table: u32 },
    /// Control to the keys' home: connections of another host hold these keys, and their tokens arrived at these times.
    /// The younger connection of a key stays. `wins_ties`: if both tokens arrived in the same millisecond, the other
    /// host's connection stays.
    HeldElsewhere { keys: Vec<(Box<str>, Millis)>, wins_ties: bool },
    /// Control to the owner: the answer to [`Report::Identify`].
    Identified { conn: ConnId, answer: Result<Identity, Denied> },
    /// Control to the owner: the answer to [`Report::Receive`]; the sentence is for the client.
    Receipt { conn: ConnId, outcome: Result<(), Box<str>> },
    /// Control to the key's home: a [`Report::Heartbeat`] did not reach logic, and control does not repeat
    /// it.
    RenewalFailed { key: Box<str> },

    /// Home to owner: deliver a push to these connections of the receiving shard.
    DeliverConns { call: CallId, conns: Vec<LocalConnId>, push: Push },
    /// Room's home to a shard with members: deliver a push to them.
    DeliverRoom { call: CallId, room: Arc<str>, push: Push },

    /// Any shard to the shard of the push caller of `call`: what became of the push here, as [`Report::Tally`].
    Tallied { call: CallId, tally: Box<Tally>, partials: u32 },
    /// The same, as [`Report::PartialTally`].
    PartiallyTallied { call: CallId, tally: Box<Tally>, settles: u32 },
    /// Control to the shard of the push caller of `call`: what became of the push on other hosts. There is one for each
    /// [`Report::Called`].
    OtherHostsTallied { call: CallId, tally: Box<OtherHostsTally> },

    /// Owner to the user's home: number the connection among the user's sessions. `is_kept`: its session outlasts the
    /// connection.
    Register { conn: ConnId, token_at: TokenTime, user: i64, key: Option<Box<str>>, is_kept: bool },
    /// User's home to the key's home: the key belongs to `conn` from this point, unless the present owner's token
    /// arrived later.
    /// `is_given`: logic named the key, so it means the same client on all hosts.
    /// `is_beyond`: the user already has as many sessions as allowed, so `conn` gets the key only if another connection
    /// holds it.
    Claim {
        conn: ConnId,
        token_at: TokenTime,
        user: i64,
        seq: i32,
        key: Box<str>,
        is_given: bool,
        is_kept: bool,
        is_beyond: bool,
    },
    /// Key's home to the owner: `conn` is registered. If the connection closed meanwhile, the owner undoes the
    /// registration. The owner of a resumed session answers with [`Message::Ready`].
    Registered { conn: ConnId, user: i64, seq: i32, key: Box<str>, kept: Option<KeptSession> },
    /// A home to the owner: close this connection. Its key has a newer owner, its user has too many sessions, or its
    /// source has too many connections.
    Evict { conn: ConnId, reason: CloseReason },
    /// Owner to the user's home: the session ended.
    EndSession { conn: ConnId, user: i64, seq: i32 },
    /// Owner to the source's home: `conn` connects from there. If there are too many, the answer is [`Message::Evict`].
    /// `conn` is `None` if the connection stays, however many there are.
    EnterSource { conn: Option<ConnId>, source: Source },
    /// Owner to the source's home: a connection from there has closed.
    LeaveSource { source: Source },
    /// Owner to the key's home: the connection is gone. The home ignores it if the key has a newer owner.
    Release { conn: ConnId, user: i64, key: Box<str> },
    /// Owner to the key's home: the connection has ended without a goodbye, and its session is kept.
    Park { conn: ConnId, user: i64, key: Box<str>, leaving: Box<Leaving> },
    /// Owner to the key's home, after it carried out [`Order::Leave`]: the pushes that the session had left.
    Rest { conn: ConnId, key: Arc<str>, rest: Box<Rest> },
    /// Owner to the key's home: the client was told that its session is resumed.
    Ready { conn: ConnId, key: Box<str> },
    /// Key's home to the owner: the parked pushes. This message is of the push class, so it comes before all later
    /// pushes.
    Resume { conn: LocalConnId, pushes: ParkedFrames },
    /// User's home to the home of `keys`, whose sessions are kept: a push to the user. Answered with partial tallies
    /// that settle as many announced ones as there are keys.
    PushKept { call: CallId, keys: Vec<KeptKey>, push: Push },
    /// Key's home to the user's home: the key's session no longer belongs to `conn`.
    GiveUp { user: i64, key: Box<str>, conn: ConnId },
    /// Owner to the key's home: logic made a session for a token, and no claim of the key follows. If no connection
    /// holds the key, the home must tell logic.
    OrphanedSession { user: i64, key: Box<str> },
    /// Owner to the key's home: time to renew the session at logic, if `conn` still holds the key.
    Renew { conn: ConnId, user: i64, key: Box<str> },
    /// Key's home to the owner: the last renewal did not reach logic. Renew with the next heartbeat.
    RenewAgain { conn: ConnId },

    /// Shard to the room's home: `shard` has its first member; answered with [`Message::RoomJoined`].
    JoinRoom { shard: ShardId, room: Arc<str> },
    /// Room's home to the shard: pushes to the room reach the shard after this message. `elsewhere` as in
    /// [`Message::RoomOnline`].
    RoomJoined { room: Arc<str>, elsewhere: u32 },
    /// Shard to the room's home: its present number of members. 0 ends its interest in the room.
    RoomMembers { shard: ShardId, room: Arc<str>, members: u32 },
    /// Shard to the room's home, after [`Message::JoinRoom`]: `conn` enters a room that keeps a history, and its client
    /// has the pushes up to `since`. Without `conn` the shard asks for the room's position. `handle` names the room on
    /// the shard.
    Recover {
        shard: ShardId,
        conn: Option<LocalConnId>,
        room: Arc<str>,
        handle: RoomHandle,
        since: Option<Position>,
    },
    /// Room's home to the shard: `conn` becomes a member at this point of the room's order. The message is of the push
    /// class, so it comes behind the pushes in the history and before all later ones. Without `recovery` the room keeps
    /// no history.
    Recovered { conn: Option<LocalConnId>, room: Arc<str>, recovery: Option<Box<Recovery>> },
    /// Shard to the room's home: a connection entered or left a room whose members are told about that.
    Presence { room: Arc<str>, user: i64, key: Box<str>, is_join: bool },
    /// Room's home to a shard with members: the number of members on all other shards and hosts.
    RoomOnline { room: Arc<str>, elsewhere: u32 },
}

/// A message to the control thread.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variants say what their fields are for")]
pub enum Report {
    /// What became of a push at the shard that control sent it to, and the number of [`Report::PartialTally`]s in which
    /// other shards report the rest. Partial tallies may arrive first: reports of different threads have no order.
    Tally { call: CallId, shard: ShardId, tally: Tally, partials: u32 },
    /// What became of a push on a shard that a home sent it to. It settles `settles` of the announced partial tallies.
    PartialTally { call: CallId, shard: ShardId, tally: Tally, settles: u32 },
    /// A paced broadcast will visit this many connections. Only the counters include its deliveries.
    Scheduled { call: CallId, shard: ShardId, connections: u64 },
    /// A paced broadcast was refused: too many are under way on this shard.
    Busy { call: CallId, shard: ShardId },
    /// A paced broadcast ended or was cancelled on this shard; the tally says what became of it here. It belongs to no
    /// call under way.
    PacedEnded { call: CallId, shard: ShardId, tally: Tally },
    /// The answer to [`Message::Snapshot`].
    Snapshot { call: CallId, shard: ShardId, counters: Box<Counters> },
    /// The answer to [`Message::Rooms`] and [`Message::CountRooms`]: rooms with members on this host, and the number of
    /// members.
    Rooms { call: CallId, rooms: Vec<(Arc<str>, u32)> },
    /// The answer to [`Message::Connections`]; `None` if too many lists are being made.
    Connections { call: CallId, page: Option<Box<ConnPage>> },
    /// The answer to [`Message::Top`]; `None` if too many lists are being made.
    Top { call: CallId, top: Option<Box<Top>> },
    /// The answer to [`Message::History`]; `None` if no rule covers the room.
    History { call: CallId, page: Option<Box<HistoryPage>> },
    /// The last connection of the shard is gone. Reports of homes about it may still follow.
    Drained { shard: ShardId },
    /// Remote logic: a token to identify. Answered with [`Message::Identified`].
    Identify(AuthRequest),
    /// Remote logic: a client's message. Answered with [`Message::Receipt`]. Until then the connection sends no other
    /// one.
    Receive {
        conn: ConnId,
        user: i64,
        key: Box<str>,
        operation: i32,
        sequence: i32,
        body: Box<[u8]>,
    },
    /// Remote logic: a connection still holds the key. Renewals and [`Report::Disconnected`] of one key come
    /// from one shard, its home, and must reach logic in that order.
    Heartbeat { user: i64, key: Box<str> },
    /// Remote logic: no connection here holds the key any more. The end of a replaced connection causes no
    /// such report.
    Disconnected { user: i64, key: Box<str> },
    /// Remote logic: a connection holds a key that was reported as disconnected shortly before. Logic may have let it
    /// in before it learned of that end; then the end removed the new session.
    Reclaimed { user: i64, key: Box<str> },
    /// A room got its first member on this host, or lost its last ([`Settings::has_other_hosts`](crate::Settings::has_other_hosts)).
    RoomInterest { room: Arc<str>, has_members: bool },
    /// A push of a push caller of this shard has begun here. For other hosts
    /// ([`Settings::has_other_hosts`](crate::Settings::has_other_hosts)); answered with [`Message::OtherHostsTallied`].
    Called { call: CallId, shard: ShardId, target: CallerTarget, push: Push },
    /// A given key got an owner whose token arrived at `at` ([`Message::WatchKeys`]), or keeps it
    /// ([`Message::HeldElsewhere`]).
    Claimed { key: Box<str>, at: Millis },
    /// The answer to [`Message::ListKeys`]. `next` is the table to continue with; `None`: these were the last.
    KeySlice { shard: ShardId, keys: Vec<(Box<str>, Millis)>, next: Option<u32> },
    /// An event of a traced connection.
    Trace(Box<TraceEvent>),
}

impl Message {
    /// The bytes that it adds to an outbox: the length of its frame, if it is a push.
    #[must_use]
    pub fn push_bytes(&self) -> usize {
        match self {
            Self::PushKeys { push, .. }
            | Self::PushUsers { push, .. }
            | Self::PushRoom { push, .. }
            | Self::PushFromStream { push, .. }
            | Self::Broadcast { push, .. }
            | Self::DeliverConns { push, .. }
            | Self::PushKept { push, .. }
            | Self::DeliverRoom { push, .. } => push.frame.for_websocket().len(),
            Self::Resume { pushes, .. } => pushes.bytes(),
            Self::Recovered { recovery: Some(recovery), .. } => {
                recovery.chunk.as_ref().map_or(0, |chunk| chunk.for_websocket().len())
            }
            _ => 0,
        }
    }

    /// The class of queue that it belongs in.
    #[must_use]
    pub fn class(&self) -> MessageClass {
        match self {
            Self::PushKeys { .. }
            | Self::PushUsers { .. }
            | Self::PushRoom { .. }
            | Self::PushFromStream { .. }
            | Self::RefuseFromStream { .. }
            | Self::Stream { .. }
            | Self::Broadcast { .. }
            | Self::KickNetwork { .. }
            | Self::DeliverConns { .. }
            | Self::DeliverRoom { .. }
            | Self::PushKept { .. }
            | Self::Resume { .. }
            | Self::Recovered { .. } => MessageClass::Push,
            _ => MessageClass::Directory,
        }
    }

    /// Whether it reports how many members a room has.
    pub(crate) fn is_room_count(&self) -> bool {
        matches!(self, Self::RoomMembers { .. } | Self::RoomOnline { .. })
    }
}
