//! What every part of a shard may read: its place among the shards, its bounds, and the time.

use std::sync::Arc;

use crate::active_clock::ActiveClock;
use crate::ids::{ShardId, home_of_key, home_of_room, home_of_user};
use crate::limits::{Limits, ROOM_COUNT_MS};
use crate::settings::Logic;
use crate::time::{Millis, Tick};

pub(super) struct Context {
    pub(super) shard: ShardId,
    pub(super) shards: u16,
    pub(super) limits: Arc<Limits>,
    pub(super) logic: Logic,
    pub(super) now: Millis,
    /// Deadlines of connections count its active time.
    pub(super) clock: ActiveClock,
}

impl Context {
    pub(super) fn home_of_key(&self, key: &str) -> ShardId {
        home_of_key(key, self.shards)
    }

    pub(super) fn home_of_user(&self, user: i64) -> ShardId {
        if user == 0 { self.shard } else { home_of_user(user, self.shards) }
    }

    pub(super) fn home_of_room(&self, room: &str) -> ShardId {
        home_of_room(room, self.shards)
    }

    /// The present tick of active time.
    pub(super) fn tick(&self) -> Tick {
        self.clock.active().tick()
    }

    /// The tick `millis` from now, rounded up: a deadline may come late by a tick, never early.
    pub(super) fn deadline(&self, millis: u32) -> Tick {
        self.clock.active().after(millis.into()).tick_at_or_after()
    }

    /// How long session numbers of users are retained after their last session.
    pub(super) fn user_retention_ms(&self) -> u64 {
        self.limits.user_memory_ms.into()
    }

    /// How long keys that were reported as disconnected are retained. A client that logic let in before it
    /// learned of that claims the key within twice the handshake timeout, or never.
    pub(super) fn key_retention_ms(&self) -> u64 {
        2 * u64::from(self.limits.handshake_ms) + ROOM_COUNT_MS
    }
}
