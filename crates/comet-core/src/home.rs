//! The data of a shard as a home: owners of keys, sessions of users, and which shards have members of rooms.
//!
//! In goim the router keeps these. Here they are spread over the shards by hash. A home only answers; the shard around
//! it sends the messages.

mod history;
mod kept_users;
pub(crate) mod keys;
pub(crate) mod parking;
mod presence;
mod rooms;
mod sources;
mod users;

use std::collections::VecDeque;
use std::sync::Arc;

use comet_proto::{Position, RoomHandle};

use crate::budget::Budget;
use crate::ids::{LocalConnId, ShardId};
use crate::limits::Limits;
use crate::time::{Millis, Tick};

use history::RoomHistories;
use kept_users::KeptUsers;
use keys::KeyOwners;
use parking::Parking;
use presence::PresenceWindows;
use rooms::HomeRooms;
use sources::SourceCounts;
use users::UserSessions;

/// How long keys that were reported as disconnected are retained.
#[derive(Clone, Copy)]
pub(crate) struct KeyRetention {
    /// The time is counted from here at the earliest.
    pub(crate) since: Millis,
    /// How long.
    pub(crate) millis: u64,
}

impl KeyRetention {
    /// When a key expires that was reported at `reported_at`.
    fn end_after(self, reported_at: Millis) -> Millis {
        reported_at.max(self.since).after(self.millis)
    }
}

/// A request of a shard for the pushes of a room; see [`Message::Recover`](crate::message::Message::Recover).
pub(crate) struct RecoveryRequest {
    pub(crate) shard: ShardId,
    pub(crate) conn: Option<LocalConnId>,
    pub(crate) room: Arc<str>,
    pub(crate) handle: RoomHandle,
    pub(crate) since: Option<Position>,
}

pub(crate) struct Home {
    pub(crate) keys: KeyOwners,
    pub(crate) users: UserSessions,
    pub(crate) kept_users: KeptUsers,
    pub(crate) parking: Parking,
    pub(crate) rooms: HomeRooms,
    pub(crate) histories: RoomHistories,
    /// Requests for missed pushes that are not answered yet.
    pub(crate) recoveries: VecDeque<RecoveryRequest>,
    pub(crate) presence: PresenceWindows,
    pub(crate) sources: SourceCounts,
}

impl Home {
    pub(crate) fn new(
        (shard, shards): (ShardId, u16),
        limits: &Limits,
        seed: u64,
        now: Tick,
    ) -> Self {
        let Limits { buckets, history_is_shared, .. } = *limits;
        Self {
            keys: KeyOwners::new(shard, shards, buckets, seed),
            users: UserSessions::new(buckets, seed),
            kept_users: KeptUsers::new(seed),
            parking: Parking::new(buckets, seed, now),
            rooms: HomeRooms::new(buckets, seed),
            histories: RoomHistories::new(seed, history_is_shared),
            recoveries: VecDeque::new(),
            presence: PresenceWindows::new(seed),
            sources: SourceCounts::new(buckets, seed),
        }
    }

    /// Forgets session numbers and disconnected keys that were retained for long enough. If the budget is spent, more
    /// of them may be due.
    pub(crate) fn expire_retained(
        &mut self,
        now: Millis,
        user_ms: u64,
        keys: KeyRetention,
        budget: &mut Budget,
    ) {
        self.users.expire_numbers(now, user_ms, budget);
        if keys.end_after(keys.since) <= now {
            self.keys.expire_disconnected(now, keys.millis, budget);
        }
    }

    /// When [`Home::expire_retained`] has something to do next.
    pub(crate) fn next_expiry(&self, user_ms: u64, keys: KeyRetention) -> Option<Millis> {
        let user = self.users.oldest_number().map(|since| since.after(user_ms));
        let key = self.keys.oldest_disconnected().map(|since| keys.end_after(since));
        user.into_iter().chain(key).min()
    }
}
