//! The paced broadcasts under way on the shards: their bound, and what became of each.
//!
//! A shard refuses none, since no more than it takes are begun. So a broadcast goes to all shards or to none.

use std::collections::{BTreeMap, BTreeSet};

use comet_core::limits::PACED_MAX;
use comet_core::{CallId, Millis, ShardId, Tally};

/// The paced broadcasts that have not ended on every shard.
#[derive(Default)]
pub struct PacedBroadcasts(BTreeMap<CallId, PacedBroadcast>);

/// A paced broadcast.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacedBroadcast {
    /// The operation that connections must accept.
    pub operation: i32,
    /// Connections a second, of all shards.
    pub speed: u32,
    /// When it began.
    pub since: Millis,
    /// What became of it on the shards where it has ended.
    pub tally: Tally,
    /// Shards on which it is under way.
    shards: BTreeSet<ShardId>,
}

impl PacedBroadcasts {
    /// Whether every shard takes one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.0.len() < PACED_MAX
    }

    /// `call` is a broadcast that goes to shards 0 to `shards`.
    pub fn begin(
        &mut self,
        call: CallId,
        (operation, speed): (i32, u32),
        since: Millis,
        shards: u16,
    ) {
        let shards = (0..shards).map(ShardId).collect();
        let begun = PacedBroadcast { operation, speed, since, tally: Tally::default(), shards };
        self.0.insert(call, begun);
    }

    /// `call` is a broadcast of another process that has not ended on these `shards`; on others, `tally` became of it.
    pub fn take_over(
        &mut self,
        call: CallId,
        (operation, speed): (i32, u32),
        since: Millis,
        (tally, shards): (Tally, BTreeSet<ShardId>),
    ) {
        if !shards.is_empty() {
            self.0.insert(call, PacedBroadcast { operation, speed, since, tally, shards });
        }
    }

    /// It has ended on `shard`, where `tally` became of it. Returns the whole once it has ended everywhere.
    pub fn handle_ended(
        &mut self,
        call: CallId,
        shard: ShardId,
        tally: Tally,
    ) -> Option<PacedBroadcast> {
        let broadcast = self.0.get_mut(&call)?;
        // A shard may have ended it just before it was told to.
        if broadcast.shards.remove(&shard) {
            broadcast.tally += tally;
        }
        if broadcast.shards.is_empty() { self.0.remove(&call) } else { None }
    }

    /// Whether it is under way.
    #[must_use]
    pub fn is_under_way(&self, call: CallId) -> bool {
        self.0.contains_key(&call)
    }

    /// All that are under way, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = (CallId, &PacedBroadcast)> {
        self.0.iter().map(|(call, broadcast)| (*call, broadcast))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued() -> Tally {
        let mut tally = Tally::default();
        tally.queue();
        tally
    }

    #[test]
    fn a_broadcast_ends_with_its_last_shard() {
        let mut paced = PacedBroadcasts::default();
        paced.begin(CallId(1), (5, 10), Millis(0), 2);
        assert_eq!(paced.handle_ended(CallId(1), ShardId(1), queued()), None);
        // It was told to, and had ended.
        assert_eq!(paced.handle_ended(CallId(1), ShardId(1), Tally::default()), None);
        let ended = paced.handle_ended(CallId(1), ShardId(0), queued()).unwrap();
        assert_eq!(ended.tally.queued, 2);
        assert!(!paced.is_under_way(CallId(1)));
        assert_eq!(paced.handle_ended(CallId(1), ShardId(0), queued()), None);
    }

    #[test]
    fn a_broadcast_of_another_process_ends_with_its_last_shard() {
        let mut paced = PacedBroadcasts::default();
        let shards = [1, 2].map(ShardId).into();
        paced.take_over(CallId(7), (5, 10), Millis(3), (queued(), shards));
        // It had ended everywhere.
        paced.take_over(CallId(8), (5, 10), Millis(3), (queued(), BTreeSet::new()));
        assert_eq!(paced.all().map(|(call, _)| call).collect::<Vec<_>>(), [CallId(7)]);
        assert_eq!(paced.handle_ended(CallId(7), ShardId(2), queued()), None);
        let ended = paced.handle_ended(CallId(7), ShardId(1), queued()).unwrap();
        assert_eq!((ended.tally.queued, ended.since), (3, Millis(3)));
    }

    #[test]
    fn no_more_begin_than_a_shard_takes() {
        let mut paced = PacedBroadcasts::default();
        for call in 1..=PACED_MAX as u64 {
            assert!(paced.has_room());
            paced.begin(CallId(call), (5, 10), Millis(0), 1);
        }
        assert!(!paced.has_room());
        paced.handle_ended(CallId(7), ShardId(0), Tally::default());
        assert!(paced.has_room());
        assert_eq!(paced.all().count(), PACED_MAX - 1);
    }
}
