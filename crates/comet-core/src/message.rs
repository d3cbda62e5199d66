//! What shards and the control thread say to each other. Plain data: it crosses threads, and the
//! simulator delays and reorders it between peers (never within one pair).

use std::num::NonZeroU32;
use std::sync::Arc;

use comet_proto::Encoded;

use crate::ids::{CallId, ConnId, ShardId};
use crate::ledger::{CloseReason, Counters, Tally};

/// Operations a connection accepts from a push by key and from a broadcast.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Accepts {
    /// Every operation: the seed's tokens name none and filter nothing.
    #[default]
    All,
    /// Only these; goim v2's tokens list them, and an empty list accepts nothing.
    Only(Box<[i32]>),
    /// Every operation but these: what op 16 makes of [`Accepts::All`].
    AllBut(Box<[i32]>),
}

/// Who a connection is, as logic says it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// User id (goim: mid); 0 is anonymous.
    pub user: i64,
    /// The connection's key. `None`: the user's home hands out `<user>_<seq>`.
    pub key: Option<Box<str>>,
    /// The room it starts in.
    pub room: Option<Box<str>>,
    /// What it accepts.
    pub accepts: Accepts,
    /// Milliseconds without a heartbeat after which it is closed. `None`: the configured default.
    pub heartbeat_ms: Option<u32>,
}

/// A message to be put on sockets: built once, shared by every shard and every connection.
#[derive(Clone, Debug)]
pub struct Push {
    /// The operation the accept filter looks at; for a batch (op 9) the caller's `protoOp`.
    pub operation: i32,
    /// The bytes, for both transports.
    pub frame: Encoded,
}

/// A message to a shard.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variants say what their fields are for")]
pub enum Message {
    /// Control to the keys' home: put `push` on the connections that hold `keys`, all of which have
    /// this home. Answered with one [`Report::Tally`] and as many [`Report::Part`]s as it says.
    PushKeys { call: CallId, keys: Vec<Box<str>>, push: Push },
    /// Control to the users' home: the same for every session of `users`.
    PushUsers { call: CallId, users: Vec<i64>, push: Push },
    /// Control to the room's home: put `push` on the room's members, in the order of arrival here.
    PushRoom { call: CallId, room: Arc<str>, push: Push },
    /// Control to every shard. `speed` is this shard's share in connections a second; `None` is at
    /// once. A paced broadcast is answered when it is scheduled (see [`Report::Scheduled`]).
    Broadcast { call: CallId, push: Push, speed: Option<NonZeroU32> },
    /// Control to any shard: report counters.
    Snapshot { call: CallId },
    /// Control to any shard: report the rooms whose home it is.
    Rooms { call: CallId },
    /// Control to every shard: say goodbye to every client and take no new ones. Answered with
    /// [`Report::Drained`] once the last connection is gone.
    Drain,

    /// Home to owner: a push to these connections of the receiving shard, as (slot, generation).
    DeliverConns { call: CallId, conns: Vec<(u32, u32)>, push: Push },
    /// Room's home to a shard with members.
    DeliverRoom { call: CallId, room: Arc<str>, push: Push },

    /// Owner to the user's home: give the connection its place among the user's sessions.
    Register { conn: ConnId, user: i64, key: Option<Box<str>> },
    /// User's home to the key's home: the key belongs to `conn` from now on.
    Claim { conn: ConnId, user: i64, seq: i32, key: Box<str> },
    /// Key's home to the owner: `conn` is registered.
    Registered { conn: ConnId, user: i64, seq: i32, key: Box<str> },
    /// Key's home to the former owner: close this connection.
    Evict { conn: ConnId, reason: CloseReason },
    /// Owner to the user's home: the session ended.
    EndSession { conn: ConnId, user: i64, seq: i32 },
    /// Owner to the key's home: the connection is gone; ignored where the key has a newer owner.
    Release { conn: ConnId, key: Box<str> },

    /// Shard to the room's home: `shard` has its first member; answered with [`Message::RoomJoined`].
    JoinRoom { shard: ShardId, room: Arc<str>, epoch: u32 },
    /// Room's home to the shard: pushes reach it from here on.
    RoomJoined { room: Arc<str>, epoch: u32, elsewhere: u32 },
    /// Shard to the room's home: `members` are there now; 0 ends its interest.
    RoomMembers { shard: ShardId, room: Arc<str>, members: u32 },
    /// Room's home to a shard with members: how many are online on all the other shards.
    RoomOnline { room: Arc<str>, elsewhere: u32 },
}

/// A message to the control thread.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variants say what their fields are for")]
pub enum Report {
    /// What became of a push where control sent it, and in how many [`Report::Part`]s other shards
    /// report the rest. Parts may come first: threads are not ordered among each other.
    Tally { call: CallId, tally: Tally, parts: u32 },
    /// What became of a push on a shard that a home sent it to.
    Part { call: CallId, tally: Tally },
    /// A paced broadcast will visit this many connections; its deliveries appear in the counters.
    Scheduled { call: CallId, connections: u64 },
    /// A paced broadcast was refused: too many are under way on this shard.
    Busy { call: CallId },
    /// The answer to [`Message::Snapshot`].
    Snapshot { call: CallId, shard: ShardId, counters: Box<Counters> },
    /// The answer to [`Message::Rooms`]: rooms with someone online, and how many.
    Rooms { call: CallId, rooms: Vec<(Arc<str>, u32)> },
    /// The last connection of the shard is gone.
    Drained { shard: ShardId },
}

impl Message {
    /// Part of a push on its way between shards: bounded, and counted when dropped.
    pub(crate) fn is_push(&self) -> bool {
        matches!(self, Self::DeliverConns { .. } | Self::DeliverRoom { .. })
    }
}
