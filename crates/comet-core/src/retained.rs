//! Values kept for some time after their key was removed elsewhere: the session number of a user whose last
//! session ended, and the keys reported as disconnected.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::hash::Hash;

use crate::bucket::Buckets;
use crate::budget::{self, Budget};
use crate::time::Millis;

/// A map whose entries expire in the order of insertion. Its size is bounded by the number of insertions
/// within the retention time.
pub(crate) struct Retained<K, V> {
    entries: Buckets<K, (Millis, V)>,
    /// Oldest first. A key that was inserted again is in here more than once.
    order: VecDeque<(Millis, K)>,
}

impl<K: Hash + Eq + Clone, V> Retained<K, V> {
    pub(crate) fn new(buckets: usize, seed: u64) -> Self {
        Self { entries: Buckets::new(buckets, seed), order: VecDeque::new() }
    }

    /// Keeps `value` from `now` on. `now` never goes back.
    pub(crate) fn insert(&mut self, now: Millis, key: K, value: V) {
        self.order.push_back((now, key.clone()));
        self.entries.insert(key, (now, value));
    }

    /// Removes and returns the value kept for `key`.
    pub(crate) fn take<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Nothing is retained: the usual case, which saves the hash.
        if self.order.is_empty() {
            return None;
        }
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Removes what was inserted `retention_ms` before `now`, or earlier, until the budget is spent.
    pub(crate) fn expire(&mut self, now: Millis, retention_ms: u64, budget: &mut Budget) {
        while budget.is_left()
            && let Some((since, key)) =
                self.order.pop_front_if(|(since, _)| since.after(retention_ms) <= now)
        {
            budget.spend(budget::ENTRY);
            if self.entries.get(&key).is_some_and(|(at, _)| *at == since) {
                self.entries.remove(&key);
            }
        }
    }

    /// When the oldest entry was inserted.
    pub(crate) fn oldest(&self) -> Option<Millis> {
        self.order.front().map(|(since, _)| *since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_expires_by_its_latest_insertion() {
        let mut retained: Retained<i64, i32> = Retained::new(4, 7);
        let budget = &mut Budget::slice();
        retained.insert(Millis(0), 1, 10);
        retained.insert(Millis(5), 2, 20);
        assert_eq!(retained.take(&1), Some(10));
        assert_eq!(retained.take(&1), None);
        retained.insert(Millis(8), 1, 11);
        retained.expire(Millis(104), 100, budget);
        assert_eq!(retained.oldest(), Some(Millis(5)));
        retained.expire(Millis(107), 100, budget);
        assert_eq!(retained.take(&2), None);
        assert_eq!(retained.take(&1), Some(11));
        retained.expire(Millis(108), 100, budget);
        assert_eq!(retained.oldest(), None);
    }
    #[test]
    fn entries_expire_within_the_budget() {
        let mut retained: Retained<i64, ()> = Retained::new(4, 7);
        (0..1_000).for_each(|key| retained.insert(Millis(0), key, ()));
        for left in (0..10).rev() {
            retained.expire(Millis(100), 100, &mut Budget::new(100 * budget::ENTRY));
            assert_eq!(retained.entries.len(), left * 100);
        }
    }
}
