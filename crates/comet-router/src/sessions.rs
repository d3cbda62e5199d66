//! The [`Sessions`] trait: what a store of sessions answers, whatever it is made of.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::StoreError;

/// How long the room counts of a server that no longer renews them are believed, unless the store's
/// lifetime is shorter. goim v2's logic draws the line at the same age.
pub const ROOM_COUNTS_LIFETIME_MAX: Duration = Duration::from_secs(5 * 60);

/// A user and its sessions, each a key and the server that holds it, in order of their keys.
pub type UserSessions = (i64, Vec<(String, String)>);

/// What [`Sessions::put`] made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Which session of its user this is, counting from 1 until the user is forgotten; 1 follows
    /// [`i32::MAX`].
    pub sequence: i32,
    /// The session's key.
    pub key: String,
}

/// How much a store holds. Sessions that expired a moment ago may still be counted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Users with sessions; user 0 is nobody and not counted.
    pub users: u64,
    /// Sessions, those of user 0 among them.
    pub sessions: u64,
    /// Sessions by server; a server without any is left out.
    pub by_server: BTreeMap<String, u64>,
}

/// Who is connected to which server.
///
/// User 0 is nobody in particular: its sessions have keys and servers, but are not listed as a
/// user's. Keys and server names are taken as they are; bounding their length is the caller's part.
/// An operation on a session moves its expiry a lifetime ahead, and so the moment its user's
/// sequence is forgotten.
pub trait Sessions: Send + Sync {
    /// Begins a session: `key` is at `server` from now on, wherever it was before. An empty `key`
    /// stands for `<user>_<sequence>`; numbers whose key the user has a session with are skipped.
    ///
    /// # Errors
    /// A [`StoreError`]; the session has then not begun.
    fn put(
        &self,
        user: i64,
        key: &str,
        server: &str,
    ) -> impl Future<Output = Result<Placed, StoreError>> + Send;

    /// Ends a session and says whether there was one. If `key` belongs to another user or server by
    /// now, nothing changes: a late farewell never ends its successor.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn del(
        &self,
        user: i64,
        key: &str,
        server: &str,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Keeps a session from expiring, and makes it anew if it has expired or was forgotten; the
    /// sequence then counts on from the one in its key. Says whether `key` is this user's and
    /// server's; if it is another's by now, nothing changes.
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
    /// A [`StoreError`]; there are no partial answers.
    fn servers_of_keys(
        &self,
        keys: &[&str],
    ) -> impl Future<Output = Result<Vec<Option<String>>, StoreError>> + Send;

    /// The sessions of `users`, in their order.
    ///
    /// # Errors
    /// A [`StoreError`]; there are no partial answers.
    fn sessions_of(
        &self,
        users: &[i64],
    ) -> impl Future<Output = Result<Vec<UserSessions>, StoreError>> + Send;

    /// Ends all sessions of `server`, forgets its room counts, and says how many sessions there
    /// were. Works in batches, between which other calls come; the deadline holds for each.
    ///
    /// # Errors
    /// A [`StoreError`]; the batches before it are done.
    fn del_server(&self, server: &str) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Replaces what `server` said about how many members it has in which room. Expires after the
    /// store's lifetime, [`ROOM_COUNTS_LIFETIME_MAX`] at most.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn add_room_counts(
        &self,
        server: &str,
        rooms: &HashMap<String, u32>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Members of every room, summed over the servers whose counts have not expired. The work grows
    /// with the number of rooms.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn room_counts(&self) -> impl Future<Output = Result<HashMap<String, u32>, StoreError>> + Send;

    /// How much the store holds. The work grows with the number of servers.
    ///
    /// # Errors
    /// A [`StoreError`].
    fn counts(&self) -> impl Future<Output = Result<Counts, StoreError>> + Send;
}
