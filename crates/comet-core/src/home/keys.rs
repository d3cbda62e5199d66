//! Owners of keys.

use hashbrown::hash_table::Entry;

use crate::bucket::Buckets;
use crate::canary::Canary;
use crate::ids::{ConnId, ShardId};
use crate::retained::Retained;
use crate::time::Millis;

pub(crate) struct KeyOwners {
    owners: Buckets<Box<str>, ConnId>,
    /// Keys that were reported to logic as disconnected, for as long as it may have let in a new owner just
    /// before the report.
    disconnected: Retained<Box<str>, ()>,
    /// How many keys were given to anonymous users on this shard; see [`crate::home_of_user`].
    anonymous: u64,
    shard: ShardId,
    shards: u16,
}

impl KeyOwners {
    pub(super) fn new(shard: ShardId, shards: u16, buckets: usize, seed: u64) -> Self {
        Self {
            owners: Buckets::new(buckets, seed ^ 1),
            disconnected: Retained::new(buckets, seed ^ 6),
            anonymous: 0,
            shard,
            shards,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, ConnId)> {
        self.owners.iter().map(|(key, &conn)| (&**key, conn))
    }

    pub(crate) fn owner(&self, key: &str) -> Option<ConnId> {
        self.owners.get(key).copied()
    }

    /// Makes `conn` the owner of `key`; returns the owner it replaces.
    pub(crate) fn claim(&mut self, key: &str, conn: ConnId) -> Option<ConnId> {
        match self.owners.entry(key) {
            Entry::Occupied(known) => {
                let former = std::mem::replace(&mut known.into_mut().1, conn);
                Some(former).filter(|&former| former != conn)
            }
            Entry::Vacant(free) => {
                free.insert((key.into(), conn));
                None
            }
        }
    }

    /// Frees `key` if `conn` still owns it; returns whether it did. The late release of a replaced owner
    /// changes nothing.
    pub(crate) fn release(&mut self, key: &str, conn: ConnId) -> bool {
        match self.owners.find(key) {
            Some(known) if known.get().1 == conn || Canary::StaleRelease.is_released() => {
                known.remove();
                true
            }
            _ => false,
        }
    }

    /// The next number for a key without a user. Every shard numbers its own: the n-th here is unique among
    /// all shards without asking them.
    pub(crate) fn number_anonymous(&mut self) -> u64 {
        let number = self.anonymous * u64::from(self.shards) + u64::from(self.shard.0) + 1;
        self.anonymous += 1;
        number
    }

    /// Logic is told at `now` that no connection holds `key`.
    pub(crate) fn retain_disconnected(&mut self, now: Millis, key: &str) {
        self.disconnected.insert(now, key.into(), ());
    }

    /// Whether logic was told lately that no connection holds `key`. A second call says no.
    pub(crate) fn take_disconnected(&mut self, key: &str) -> bool {
        self.disconnected.take(key).is_some()
    }

    pub(super) fn expire_disconnected(&mut self, now: Millis, retention_ms: u64) {
        self.disconnected.expire(now, retention_ms);
    }

    pub(super) fn oldest_disconnected(&self) -> Option<Millis> {
        self.disconnected.oldest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ids::{Generation, Slot};

    #[test]
    fn the_late_release_of_a_replaced_owner_changes_nothing() {
        let conn = |shard, slot| ConnId {
            shard: ShardId(shard),
            slot: Slot(slot),
            generation: Generation(0),
        };
        let mut keys = KeyOwners::new(ShardId(0), 2, 4, 7);
        assert_eq!(keys.claim("k", conn(0, 1)), None);
        assert_eq!(keys.claim("k", conn(1, 1)), Some(conn(0, 1)));
        keys.release("k", conn(0, 1));
        assert_eq!(keys.owner("k"), Some(conn(1, 1)));
        keys.release("k", conn(1, 1));
        assert_eq!(keys.owner("k"), None);
    }

    #[test]
    fn anonymous_keys_are_unique_across_shards() {
        let mut seen = std::collections::BTreeSet::new();
        for shard in 0..3 {
            let mut keys = KeyOwners::new(ShardId(shard), 3, 4, 7);
            for _ in 0..10 {
                let number = keys.number_anonymous();
                assert!(number > 0 && seen.insert(number));
            }
        }
    }
}
