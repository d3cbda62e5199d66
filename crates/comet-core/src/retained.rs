//! Values that are kept for some time after their key was removed elsewhere: session numbers of users whose last
//! session has ended, and keys reported as disconnected.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::hash::Hash;

use crate::bucket::Buckets;
use crate::budget::{self, Budget};
use crate::limits::RETAINED_MAX;
use crate::time::Millis;

/// A map whose entries expire in order of insertion. If there are too many, the oldest expires early.
pub(crate) struct Retained<K, V> {
    entries: Buckets<K, (Millis, V)>,
    /// Oldest first. A key that was inserted again is in the queue more than once.
    order: VecDeque<(Millis, K)>,
    most: usize,
}

impl<K: Hash + Eq + Clone, V> Retained<K, V> {
    pub(crate) fn new(buckets: usize, seed: u64) -> Self {
        Self { entries: Buckets::new(buckets, seed), order: VecDeque::new(), most: RETAINED_MAX }
    }

    /// Keeps `value` from `now` on. `now` must never go back. Returns whether the oldest entry was removed early to
    /// make space.
    pub(crate) fn insert(&mut self, now: Millis, key: K, value: V) -> bool {
        let is_full = self.order.len() >= self.most;
        let is_early = is_full
            && self.order.pop_front().is_some_and(|(since, key)| self.remove_if(&key, since));
        self.order.push_back((now, key.clone()));
        self.entries.insert(key, (now, value));
        is_early
    }

    /// Removes `key`, if its last insertion was at `since`.
    fn remove_if(&mut self, key: &K, since: Millis) -> bool {
        let is_same = self.entries.get(key).is_some_and(|(at, _)| *at == since);
        is_same && self.entries.remove(key).is_some()
    }

    /// Removes and returns the value kept for `key`.
    pub(crate) fn take<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Usually nothing is retained. Then this saves the hash.
        if self.order.is_empty() {
            return None;
        }
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Removes the entries that were inserted `retention_ms` or longer before `now`, until the budget is spent.
    pub(crate) fn expire(&mut self, now: Millis, retention_ms: u64, budget: &mut Budget) {
        while budget.is_left()
            && let Some((since, key)) =
                self.order.pop_front_if(|(since, _)| since.after(retention_ms) <= now)
        {
            budget.spend(budget::ENTRY);
            self.remove_if(&key, since);
        }
    }

    /// The entries, oldest first, and the times of their insertion.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Millis, &K, &V)> {
        self.order.iter().filter_map(|(since, key)| {
            let (at, value) = self.entries.get(key)?;
            (at == since).then_some((*since, key, value))
        })
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
    fn the_oldest_are_forgotten_where_there_are_too_many() {
        let mut retained: Retained<i64, ()> = Retained::new(4, 7);
        retained.most = 3;
        let early = (0..5).map(|key| retained.insert(Millis(key as u64), key, ()));
        assert_eq!(early.collect::<Vec<_>>(), [false, false, false, true, true]);
        assert_eq!((retained.take(&1), retained.take(&2)), (None, Some(())));
        // An entry that was taken stays in the queue until its turn. It does not count as forgotten early.
        assert!(!retained.insert(Millis(5), 5, ()));
        assert_eq!(retained.order.len(), 3);
    }

    #[test]
    fn entries_expire_within_the_budget() {
        let mut retained: Retained<i64, ()> = Retained::new(4, 7);
        for key in 0..1_000 {
            retained.insert(Millis(0), key, ());
        }
        for left in (0..10).rev() {
            retained.expire(Millis(100), 100, &mut Budget::new(100 * budget::ENTRY));
            assert_eq!(retained.entries.len(), left * 100);
        }
    }
}
