//! The settings of a shard: its number, its limits, and where logic runs.

use std::sync::Arc;

use crate::ids::ShardId;
use crate::limits::Limits;

/// The settings of a shard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The number of the shard.
    pub shard: ShardId,
    /// The number of shards; at least one.
    pub shards: u16,
    /// The limits of the shard.
    pub limits: Arc<Limits>,
    /// Where logic runs.
    pub logic: Logic,
    /// The seed of its hash maps and its jitter. It is secret, and fixed only for a run that must be replayed.
    pub hash_seed: u64,
    /// Whether there are other hosts. Homes then report the rooms that got their first member on this host or lost
    /// their last, and shards report the pushes of their callers.
    pub has_other_hosts: bool,
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
    /// In the driver, which takes tokens from [`crate::Shard::poll_auth`]. The shard answers client messages at once,
    /// and logic is told nothing else.
    #[default]
    Embedded,
    /// In another process that control calls. Tokens, client messages, renewals and ends of sessions go out
    /// as [`crate::Report`]s.
    Remote {
        /// The shortest and the longest time between two renewals of a connection's session, milliseconds. The first
        /// client heartbeat after a random time between the two causes a renewal.
        renew_ms: (u32, u32),
    },
}
