//! The [`Sessions`] trait: the interface of all session stores.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::error::StoreError;

/// The lifetime of the room counts of a server that does not renew them, unless the store's
/// lifetime is shorter. goim v2's logic has the same limit.
pub const ROOM_COUNTS_LIFETIME_MAX: Duration = Duration::from_secs(5 * 60);

/// Some of the 64 parts that the rooms of a server are divided into, as goim v2's logic divides them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buckets(pub u64);

impl Buckets {
    /// All parts.
    pub const ALL: Self = Self(u64::MAX);

    /// The number of parts.
    pub(crate) const COUNT: u32 = u64::BITS;

    /// The number of the part that `room` is in.
    pub(crate) fn of(room: &str) -> u32 {
        cityhasher::hash::<u32>(room) % Self::COUNT
    }

    /// Whether the part with this number is among these.
    pub(crate) fn contains(self, bucket: u32) -> bool {
        self.0 >> bucket & 1 == 1
    }
}

/// A user and its sessions. Each is a key and the server of the connection; they are in the order
/// of their keys.
pub type UserSessions = (i64, Vec<(String, String)>);

/// The session that [`Sessions::put`] made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The number of the session, counted per user from 1 until the user is forgotten; 1 follows
    /// [`i32::MAX`].
    pub sequence: i32,
    /// The session's key.
    pub key: String,
}

/// How many sessions a store holds. Recently expired ones may be included.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SessionCounts {
    /// Users with sessions, without user 0.
    pub users: u64,
    /// Sessions, with those of user 0.
    pub sessions: u64,
    /// Sessions by server, without servers that have none.
    pub by_server: BTreeMap<String, u64>,
}

/// The state of one of a store's servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerState {
    /// Address and database, without a password.
    pub name: String,
    /// Whether the last call was served.
    pub is_up: bool,
    /// Calls that were not served: the server was not reached, was late, or said that it cannot serve.
    pub failures: u64,
}

/// Which user is connected to which server.
///
/// User 0 stands for anonymous users: its sessions have keys and servers, but are not listed as
/// those of a user. Keys and server names are not checked; the caller bounds their length. An
/// operation on a session sets its expiry to one lifetime from now, and the time at which its
/// user's sequence is forgotten as well.
pub trait Sessions: Send + Sync {
    /// Begins a session: `key` belongs to `user` and `server` from now on, whatever its owner was.
    /// An empty `key` stands for `<user>_<sequence>`. A sequence is skipped if the user has a
    /// session with that key.
    ///
    /// # Errors
    /// A [`StoreError`]; the session has then not begun.
    fn put(
        &self,
        user: i64,
        key: &str,
        server: &str,
    ) -> impl Future<Output = Result<Placed, StoreError>> + Send;

    /// Ends a session and returns whether there was one. Nothing changes if `key` belongs to
    /// another user or server by now: a late call never ends the successor of a session.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn del(
        &self,
        user: i64,
        key: &str,
        server: &str,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Renews a session, and makes it again if it has expired or was lost; the sequence then
    /// continues from the one in its key. Returns whether `key` belongs to this user and server.
    /// Nothing changes if it belongs to another by now.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn renew(
        &self,
        user: i64,
        key: &str,
        server: &str,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The servers of `keys`, in their order.
    ///
    /// # Errors
    /// A [`StoreError`]; there is no partial answer.
    fn servers_of_keys(
        &self,
        keys: &[&str],
    ) -> impl Future<Output = Result<Vec<Option<String>>, StoreError>> + Send;

    /// The sessions of `users`, in their order.
    ///
    /// # Errors
    /// A [`StoreError`]; there is no partial answer.
    fn sessions_of(
        &self,
        users: &[i64],
    ) -> impl Future<Output = Result<Vec<UserSessions>, StoreError>> + Send;

    /// Ends all sessions of `server`, removes its room counts, and returns the number of ended
    /// sessions. Works in batches, between which other calls can run; each batch has the deadline.
    ///
    /// # Errors
    /// A [`StoreError`]; the batches before it have taken effect.
    fn del_server(&self, server: &str) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Replaces the numbers of members that `server` has in its rooms of `buckets`; those of other
    /// buckets stay. All of them expire after the store's lifetime, or after
    /// [`ROOM_COUNTS_LIFETIME_MAX`] if that is shorter.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn add_room_counts(
        &self,
        server: &str,
        buckets: Buckets,
        rooms: &HashMap<String, u32>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The number of members of every room, over the servers whose counts have not expired. The
    /// cost grows with the number of rooms.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn room_counts(&self) -> impl Future<Output = Result<HashMap<String, u32>, StoreError>> + Send;

    /// The number of members of each of these rooms, in their order.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn members_of(
        &self,
        rooms: &[String],
    ) -> impl Future<Output = Result<Vec<u32>, StoreError>> + Send;

    /// How many sessions the store holds. The cost grows with the number of servers.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn counts(&self) -> impl Future<Output = Result<SessionCounts, StoreError>> + Send;
}
