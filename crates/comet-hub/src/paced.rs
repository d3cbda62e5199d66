//! The paced broadcasts under way on the shards: their bound, and the result of each.
//!
//! No more are begun than a shard takes, so no shard refuses one. A broadcast therefore goes to all shards or to none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use comet_core::limits::PACED_MAX;
use comet_core::{CallId, Millis, ShardId, Tally};

/// The paced broadcasts that have not ended on every shard.
#[derive(Default)]
pub struct PacedBroadcasts {
    under_way: BTreeMap<CallId, PacedBroadcast>,
    /// Names that were cancelled, the latest last. The cancellation may arrive from another host before the broadcast.
    cancelled: VecDeque<Arc<str>>,
}

/// The operation that connections must accept, the connections a second of all shards, and the name.
pub type PacedWhat = (i32, u32, Option<Arc<str>>);

/// A paced broadcast.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacedBroadcast {
    /// The operation that connections must accept.
    pub operation: i32,
    /// Connections a second, over all shards.
    pub speed: u32,
    /// Its name on all hosts. `None`: it runs only on this one.
    pub name: Option<Arc<str>>,
    /// When it began.
    pub since: Millis,
    /// The tally of the shards on which it has ended.
    pub tally: Tally,
    /// Shards on which it is under way.
    shards: BTreeSet<ShardId>,
}

impl PacedBroadcasts {
    /// Whether every shard takes one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.under_way.len() < PACED_MAX
    }

    /// Notes that the broadcast `call` goes to shards 0 to `shards`.
    pub fn begin(
        &mut self,
        call: CallId,
        (operation, speed, name): PacedWhat,
        since: Millis,
        shards: u16,
    ) {
        let shards = (0..shards).map(ShardId).collect();
        let tally = Tally::default();
        let begun = PacedBroadcast { operation, speed, name, since, tally, shards };
        self.under_way.insert(call, begun);
    }

    /// Takes over a broadcast of another process that has not ended on these `shards`; `tally` is the result of the
    /// others.
    pub fn take_over(
        &mut self,
        call: CallId,
        (operation, speed, name): PacedWhat,
        since: Millis,
        (tally, shards): (Tally, BTreeSet<ShardId>),
    ) {
        if !shards.is_empty() {
            let moved = PacedBroadcast { operation, speed, name, since, tally, shards };
            self.under_way.insert(call, moved);
        }
    }

    /// Notes that it has ended on `shard` with `tally`. Returns the whole broadcast once it has ended everywhere.
    pub fn handle_ended(
        &mut self,
        call: CallId,
        shard: ShardId,
        tally: Tally,
    ) -> Option<PacedBroadcast> {
        let broadcast = self.under_way.get_mut(&call)?;
        // A shard may have ended it just before the cancellation arrived.
        if broadcast.shards.remove(&shard) {
            broadcast.tally += tally;
        }
        if broadcast.shards.is_empty() { self.under_way.remove(&call) } else { None }
    }

    /// Whether it is under way.
    #[must_use]
    pub fn is_under_way(&self, call: CallId) -> bool {
        self.under_way.contains_key(&call)
    }

    /// Its name on all hosts. `None`: it has none, or is not under way.
    #[must_use]
    pub fn name(&self, call: CallId) -> Option<&Arc<str>> {
        self.under_way.get(&call)?.name.as_ref()
    }

    /// Cancels the broadcasts of this name, as ordered to all hosts. Returns those under way here.
    pub fn cancel_named(&mut self, name: &Arc<str>) -> Vec<CallId> {
        if !self.was_cancelled(name) {
            // At most this many broadcasts may have been under way on another host at once.
            if self.cancelled.len() >= PACED_MAX {
                self.cancelled.pop_front();
            }
            self.cancelled.push_back(Arc::clone(name));
        }
        let named = self.all().filter(|(_, broadcast)| broadcast.name.as_ref() == Some(name));
        named.map(|(call, _)| call).collect()
    }

    /// Whether the broadcasts of this name were cancelled on all hosts. Such a broadcast does not begin.
    #[must_use]
    pub fn was_cancelled(&self, name: &str) -> bool {
        self.cancelled.iter().any(|cancelled| **cancelled == *name)
    }

    /// All that are under way, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = (CallId, &PacedBroadcast)> {
        self.under_way.iter().map(|(call, broadcast)| (*call, broadcast))
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
        paced.begin(CallId(1), (5, 10, None), Millis(0), 2);
        assert_eq!(paced.handle_ended(CallId(1), ShardId(1), queued()), None);
        // The cancellation arrived after it had ended there.
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
        paced.take_over(CallId(7), (5, 10, None), Millis(3), (queued(), shards));
        // This one had ended everywhere.
        paced.take_over(CallId(8), (5, 10, None), Millis(3), (queued(), BTreeSet::new()));
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
            paced.begin(CallId(call), (5, 10, None), Millis(0), 1);
        }
        assert!(!paced.has_room());
        paced.handle_ended(CallId(7), ShardId(0), Tally::default());
        assert!(paced.has_room());
        assert_eq!(paced.all().count(), PACED_MAX - 1);
    }

    #[test]
    fn cancelling_a_name_ends_its_broadcasts_and_prevents_later_ones() {
        let mut paced = PacedBroadcasts::default();
        let (name, other): (Arc<str>, Arc<str>) = ("a.1.7".into(), "a.1.8".into());
        for (call, name) in [(1, Some(&name)), (2, Some(&other)), (3, None)] {
            paced.begin(CallId(call), (5, 10, name.cloned()), Millis(0), 1);
        }
        assert_eq!(paced.name(CallId(1)), Some(&name));
        assert_eq!((paced.name(CallId(3)), paced.name(CallId(4))), (None, None));
        assert_eq!(paced.cancel_named(&name), [CallId(1)]);
        assert!(paced.was_cancelled(&name) && !paced.was_cancelled(&other));
        paced.handle_ended(CallId(1), ShardId(0), queued());
        assert_eq!(paced.cancel_named(&name), []);
        // The name is remembered for a while.
        for number in 1..PACED_MAX {
            assert_eq!(paced.cancel_named(&number.to_string().into()), []);
            assert!(paced.was_cancelled(&name), "{number}");
        }
        paced.cancel_named(&"last".into());
        assert!(!paced.was_cancelled(&name) && paced.was_cancelled("last"));
    }
}
