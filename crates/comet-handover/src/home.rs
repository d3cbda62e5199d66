//! The state of a shard as a home. Owners of keys, sessions and members of rooms are not in it: they follow from the
//! connections.

use prost::Message;

use crate::{Item, ParkedSession};

/// The state of a shard as a home.
#[derive(Clone, PartialEq, Message)]
pub struct Home {
    /// Users with sessions.
    #[prost(message, repeated, tag = "1")]
    pub users: Vec<User>,
    /// Users without a session whose number is retained, the oldest first.
    #[prost(message, repeated, tag = "2")]
    pub departed_users: Vec<DepartedUser>,
    /// Keys that were reported to logic as disconnected, the oldest first.
    #[prost(message, repeated, tag = "3")]
    pub disconnected_keys: Vec<DisconnectedKey>,
    /// An upper bound of the numbers given to keys of anonymous users here.
    #[prost(uint64, tag = "4")]
    pub anonymous: u64,
    /// Rooms with members on other hosts.
    #[prost(message, repeated, tag = "5")]
    pub remote_rooms: Vec<RemoteRoom>,
    /// Rooms with a position, ordered by the time of their last push, the oldest first.
    #[prost(message, repeated, tag = "6")]
    pub histories: Vec<History>,
    /// Number of rooms whose position was forgotten. A room that comes back gets a new epoch because of that.
    #[prost(uint64, tag = "7")]
    pub forgotten_rooms: u64,
    /// Sessions whose keys have no connection.
    #[prost(message, repeated, tag = "8")]
    pub parked: Vec<ParkedSession>,
    /// How long keys that logic named have had their owners. The new process may be the first one with other hosts.
    #[prost(message, repeated, tag = "9")]
    pub key_ages: Vec<KeyAge>,
    /// Keys of connections that stay behind. Remote logic considers them connected.
    #[prost(message, repeated, tag = "15")]
    pub left_behind: Vec<LeftBehindKey>,
    /// Distinguishes the stream of pushes shared by hosts from other streams. 0: no shared stream, or it was not read
    /// yet.
    #[prost(fixed64, tag = "16")]
    pub stream_epoch: u64,
    /// Pushes of the stream up to this offset may be lost.
    #[prost(uint64, tag = "17")]
    pub stream_floor: u64,
    /// The home has had the pushes of the stream up to this offset.
    #[prost(uint64, tag = "18")]
    pub stream_seen: u64,
    /// Offset of the latest push of the stream to a room that was forgotten.
    #[prost(uint64, tag = "19")]
    pub stream_forgotten: u64,
}

/// How long a key has had its owner.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct KeyAge {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Time since the owner's token arrived.
    #[prost(uint64, tag = "2")]
    pub age_ms: u64,
}

/// A user with sessions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct User {
    /// The user.
    #[prost(sint64, tag = "1")]
    pub user: i64,
    /// Number of the latest session, which may have ended.
    #[prost(sint32, tag = "2")]
    pub last: i32,
}

/// A user without a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct DepartedUser {
    /// The user.
    #[prost(sint64, tag = "1")]
    pub user: i64,
    /// Number of the last session.
    #[prost(sint32, tag = "2")]
    pub last: i32,
    /// Time since that session ended, milliseconds.
    #[prost(uint64, tag = "3")]
    pub age_ms: u64,
}

/// A key that no connection holds.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct DisconnectedKey {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Time since logic was told, milliseconds.
    #[prost(uint64, tag = "2")]
    pub age_ms: u64,
}

/// A key whose connection stays behind.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct LeftBehindKey {
    /// Its user.
    #[prost(sint64, tag = "1")]
    pub user: i64,
    /// The key.
    #[prost(string, tag = "2")]
    pub key: String,
}

/// A room with members on other hosts.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RemoteRoom {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The number of these members.
    #[prost(uint32, tag = "2")]
    pub members: u32,
}

/// The history of a room.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct History {
    /// The room.
    #[prost(string, tag = "1")]
    pub room: String,
    /// Its epoch.
    #[prost(fixed64, tag = "2")]
    pub epoch: u64,
    /// Offset of its latest push.
    #[prost(uint64, tag = "3")]
    pub top: u64,
    /// Pushes that are kept, the oldest first.
    #[prost(message, repeated, tag = "4")]
    pub frames: Vec<Kept>,
    /// All pushes after this offset are among them. `None`: the oldest kept push is the first.
    #[prost(uint64, optional, tag = "5")]
    pub floor: Option<u64>,
}

/// A push that is kept, or a batch of them.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Kept {
    /// Its frame.
    #[prost(message, optional, tag = "1")]
    pub frame: Option<Item>,
    /// Offset of its last push.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// How many pushes are in it.
    #[prost(uint32, tag = "3")]
    pub pushes: u32,
    /// How long it has been kept, milliseconds.
    #[prost(uint64, tag = "4")]
    pub age_ms: u64,
}
