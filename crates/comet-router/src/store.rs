//! [`Store`]: whichever kind the configuration names.

use std::collections::HashMap;

use crate::{Counts, Memory, Placed, Redis, Sessions, StoreError, UserSessions};

/// Either kind of [`Sessions`].
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // a service has one
pub enum Store {
    /// In this process; forgotten when it ends.
    Memory(Memory),
    /// In one or several Redis servers.
    Redis(Redis),
}

/// Passes a call on to the kind there is.
macro_rules! either {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            Store::Memory($inner) => $call.await,
            Store::Redis($inner) => $call.await,
        }
    };
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
        rooms: &HashMap<String, u32>,
    ) -> Result<(), StoreError> {
        either!(self, store => store.add_room_counts(server, rooms))
    }

    async fn room_counts(&self) -> Result<HashMap<String, u32>, StoreError> {
        either!(self, store => store.room_counts())
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        either!(self, store => store.counts())
    }
}
