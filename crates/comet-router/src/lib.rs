//! The session store of a logic service: which user is connected to which server. [`Sessions`] is
//! the trait. [`Memory`] keeps the sessions in this process, [`Redis`] in Redis, and [`Store`] is
//! either.
//!
//! A session consists of a user, a key and the server that holds the connection. A key has one
//! owner at a time, the newest; later calls for an earlier owner change nothing. A session that is
//! not renewed ends after the store's lifetime, and so do the room counts of a server that does not
//! renew them.
//!
//! **Invariant:** this crate knows no shard and no client's socket. Each call ends by its deadline,
//! with an answer or a [`StoreError`].
#![allow(clippy::disallowed_methods, reason = "sessions expire by the clock")]

mod error;
mod memory;
mod redis;
mod sessions;
mod store;

pub use error::StoreError;
pub use memory::Memory;
pub use redis::{Redis, RedisOptions};
pub use sessions::{
    Buckets, Placed, ROOM_COUNTS_LIFETIME_MAX, ServerState, SessionCounts, Sessions, UserSessions,
};
pub use store::Store;
