//! What a shard keeps as a home: owners of keys, sessions of users, interest in rooms.
//!
//! It is the router of goim's seed, spread over the shards by hash. Its answers are facts; the shard around it
//! sends the messages.

mod keys;
mod rooms;
mod sources;
mod users;

use crate::budget::Budget;
use crate::ids::ShardId;
use crate::time::Millis;

use keys::KeyOwners;
use rooms::HomeRooms;
use sources::SourceCounts;
use users::UserSessions;

pub(crate) struct Home {
    pub(crate) keys: KeyOwners,
    pub(crate) users: UserSessions,
    pub(crate) rooms: HomeRooms,
    pub(crate) sources: SourceCounts,
}

impl Home {
    pub(crate) fn new(shard: ShardId, shards: u16, buckets: usize, seed: u64) -> Self {
        Self {
            keys: KeyOwners::new(shard, shards, buckets, seed),
            users: UserSessions::new(buckets, seed),
            rooms: HomeRooms::new(buckets, seed),
            sources: SourceCounts::new(buckets, seed),
        }
    }

    /// Forgets session numbers and disconnected keys that were retained for so long. If the budget is spent,
    /// more of them may be due.
    pub(crate) fn expire_retained(
        &mut self,
        now: Millis,
        user_ms: u64,
        key_ms: u64,
        budget: &mut Budget,
    ) {
        self.users.expire_numbers(now, user_ms, budget);
        self.keys.expire_disconnected(now, key_ms, budget);
    }

    /// When [`Home::expire_retained`] has something to do next.
    pub(crate) fn next_expiry(&self, user_ms: u64, key_ms: u64) -> Option<Millis> {
        let user = self.users.oldest_number().map(|since| since.after(user_ms));
        let key = self.keys.oldest_disconnected().map(|since| since.after(key_ms));
        user.into_iter().chain(key).min()
    }
}
