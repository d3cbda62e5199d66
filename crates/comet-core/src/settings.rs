//! What makes a shard: its number, its bounds, and where logic runs.

use std::sync::Arc;

use crate::ids::ShardId;
use crate::limits::Limits;

/// The settings of a shard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which one it is.
    pub shard: ShardId,
    /// How many shards there are; at least one.
    pub shards: u16,
    /// Its bounds.
    pub limits: Arc<Limits>,
    /// Where tokens and client messages go.
    pub logic: Logic,
    /// Seed of its hash maps and its jitter. A secret, and fixed only where a run must replay.
    pub hash_seed: u64,
    /// Whether there are other hosts: homes report the rooms that got their first member on this host, and those that lost their last, and
    /// shards report the pushes of their callers.
    pub reports_rooms: bool,
}

impl Settings {
    /// # Panics
    /// If the settings contradict each other.
    pub(crate) fn assert_sound(&self) {
        self.limits.assert_sound();
        assert!(self.shard.0 < self.shards, "shards are numbered from 0 without gaps");
        if let Logic::Remote { renew_ms: (least, most) } = self.logic {
            assert!(least <= most, "renew_ms is least and most");
        }
    }
}

/// Where logic runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Logic {
    /// In the driver, which takes tokens from [`crate::Shard::poll_auth`]. The shard answers client messages
    /// at once, and logic learns of nothing else.
    #[default]
    Embedded,
    /// In another process that control calls. Tokens, client messages, renewals and ends of sessions go out
    /// as [`crate::Report`]s.
    Remote {
        /// Least and most time between two renewals of a connection's session, milliseconds. A renewal
        /// goes out with the first client heartbeat after a random time between the two.
        renew_ms: (u32, u32),
    },
}
