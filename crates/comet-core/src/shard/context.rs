//! What every part of a shard may read: its place among the shards, its limits, and the time.

use std::sync::Arc;

use crate::active_clock::ActiveClock;
use crate::canary::Canary;
use crate::ids::{ShardId, home_of_key, home_of_room, home_of_source, home_of_user};
use crate::limits::Limits;
use crate::settings::Logic;
use crate::source::Source;
use crate::time::{Millis, Tick, TokenTime};

pub(super) struct Context {
    pub(super) shard: ShardId,
    pub(super) shards: u16,
    pub(super) limits: Arc<Limits>,
    pub(super) logic: Logic,
    pub(super) has_other_hosts: bool,
    pub(super) now: Millis,
    /// The clock of active time, which deadlines of connections count.
    pub(super) clock: ActiveClock,
}

impl Context {
    pub(super) fn home_of_key(&self, key: &str) -> ShardId {
        home_of_key(key, self.shards)
    }

    pub(super) fn home_of_user(&self, user: i64) -> ShardId {
        if user == 0 { self.shard } else { home_of_user(user, self.shards) }
    }

    pub(super) fn home_of_source(&self, source: &Source) -> ShardId {
        home_of_source(source, self.shards)
    }

    pub(super) fn home_of_room(&self, room: &str) -> ShardId {
        home_of_room(room, self.shards)
    }

    /// The present tick of active time.
    pub(super) fn tick(&self) -> Tick {
        self.clock.active().tick()
    }

    /// The tick `millis` from now, rounded up. A deadline may be late by up to a tick, but never early.
    pub(super) fn deadline(&self, millis: u32) -> Tick {
        self.clock.active().after(millis.into()).tick_at_or_after()
    }

    /// How long session numbers of users are retained after their last session.
    pub(super) fn user_retention_ms(&self) -> u64 {
        self.limits.user_memory_ms.into()
    }

    /// How long keys that were reported as disconnected are retained.
    pub(super) fn key_retention_ms(&self) -> u64 {
        self.limits.key_memory_ms.into()
    }

    /// Whether logic was asked about the token of `token_at` so long ago that this shard, as the home of its key, may
    /// have forgotten a later end of the key. Ends are retained for twice the time that is compared here, because two
    /// shards read their clocks at different times.
    pub(super) fn is_late(&self, token_at: TokenTime) -> bool {
        let retained_ms = self.key_retention_ms() / 2;
        let is_remote = matches!(self.logic, Logic::Remote { .. });
        is_remote
            && !Canary::LateClaim.is_released()
            && token_at.millis().after(retained_ms) <= self.now
    }
}
