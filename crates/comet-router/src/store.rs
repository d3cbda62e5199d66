//! [`Store`]: the kind of store that the configuration selects.

use std::collections::HashMap;

use crate::error::StoreError;
use crate::memory::Memory;
use crate::redis::Redis;
use crate::sessions::{Buckets, Placed, ServerState, SessionCounts, Sessions, UserSessions};

/// Either kind of session store.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a service has only one")]
pub enum Store {
    /// In this process; lost when the process ends.
    Memory(Memory),
    /// In one or several Redis servers.
    Redis(Redis),
}

/// Forwards a call to the store inside.
macro_rules! either {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            Store::Memory($inner) => $call.await,
            Store::Redis($inner) => $call.await,
        }
    };
}

impl Store {
    /// The state of each server that stores sessions; empty for the store in memory.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerState> {
        match self {
            Self::Memory(_) => Vec::new(),
            Self::Redis(redis) => redis.servers(),
        }
    }
}

impl Sessions for Store {
    async fn put(&self, user: i64, key: &str, server: &str) -> Result<Placed, StoreError> {
        either!(self, store => store.put(user, key, server))
    }

    async fn del(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        either!(self, store => store.del(user, key, server))
    }

    async fn renew(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        either!(self, store => store.renew(user, key, server))
    }

    async fn servers_of_keys(&self, keys: &[&str]) -> Result<Vec<Option<String>>, StoreError> {
        either!(self, store => store.servers_of_keys(keys))
    }

    async fn sessions_of(&self, users: &[i64]) -> Result<Vec<UserSessions>, StoreError> {
        either!(self, store => store.sessions_of(users))
    }

    async fn del_server(&self, server: &str) -> Result<u64, StoreError> {
        either!(self, store => store.del_server(server))
    }

    async fn add_room_counts(
        &self,
        server: &str,
        buckets: Buckets,
        rooms: &HashMap<String, u32>,
    ) -> Result<(), StoreError> {
        either!(self, store => store.add_room_counts(server, buckets, rooms))
    }

    async fn room_counts(&self) -> Result<HashMap<String, u32>, StoreError> {
        either!(self, store => store.room_counts())
    }

    async fn members_of(&self, rooms: &[String]) -> Result<Vec<u32>, StoreError> {
        either!(self, store => store.members_of(rooms))
    }

    async fn counts(&self) -> Result<SessionCounts, StoreError> {
        either!(self, store => store.counts())
    }
}
