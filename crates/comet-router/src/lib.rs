//! Where a logic service keeps who is connected to which server: the [`Sessions`] trait, kept in
//! this process by [`Memory`] and in Redis by [`Redis`], and [`Store`], which is either.
//!
//! A session is a user, a key and the server that holds the connection. A key has one owner at a
//! time, and the newest wins; what an earlier owner says afterwards changes nothing. Sessions that
//! nobody renews end after the store's lifetime, and so do the room counts of a server that fell
//! silent.
//!
//! **Invariant:** this crate knows no shard and no client's socket, and a call to it ends: in an
//! answer, or in a [`StoreError`] by its deadline.
#![allow(clippy::disallowed_methods)] // sessions expire by the clock, and this is where it is read

mod error;
mod memory;
mod redis;
mod sessions;
mod store;

pub use error::StoreError;
pub use memory::Memory;
pub use redis::{Options, Redis};
pub use sessions::{Counts, Placed, ROOM_COUNTS_LIFETIME_MAX, Sessions, UserSessions};
pub use store::Store;
