//! What is remembered for a while of those who left: found by name, forgotten in the order of leaving.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::hash::Hash;

use crate::bucket::Buckets;
use crate::ids::Millis;

/// Bounded by who leaves within the time that it is remembered.
pub(crate) struct Departed<K, V> {
    known: Buckets<K, (Millis, V)>,
    /// Oldest first. Who came back and left again stands here more than once.
    order: VecDeque<(Millis, K)>,
}

impl<K: Hash + Eq + Clone, V> Departed<K, V> {
    pub(crate) fn new(buckets: usize, seed: u64) -> Self {
        Self { known: Buckets::new(buckets, seed), order: VecDeque::new() }
    }

    /// `key` left at `now`, which never goes back.
    pub(crate) fn insert(&mut self, now: Millis, key: K, value: V) {
        self.order.push_back((now, key.clone()));
        self.known.insert(key, (now, value));
    }

    /// `key` is back: what was remembered of it.
    pub(crate) fn take<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Nobody left lately: the usual case.
        if self.order.is_empty() {
            return None;
        }
        self.known.remove(key).map(|(_, value)| value)
    }

    /// Forgets who left `memory_ms` before `now`, or earlier.
    pub(crate) fn forget(&mut self, now: Millis, memory_ms: u64) {
        while let Some((left, key)) =
            self.order.pop_front_if(|(left, _)| left.after(memory_ms) <= now)
        {
            if self.known.get(&key).is_some_and(|(at, _)| *at == left) {
                self.known.remove(&key);
            }
        }
    }

    /// When the first of them left.
    pub(crate) fn first(&self) -> Option<Millis> {
        self.order.front().map(|(left, _)| *left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_remembered_from_when_it_left_last() {
        let mut departed: Departed<i64, i32> = Departed::new(4, 7);
        departed.insert(Millis(0), 1, 10);
        departed.insert(Millis(5), 2, 20);
        assert_eq!(departed.take(&1), Some(10));
        assert_eq!(departed.take(&1), None);
        departed.insert(Millis(8), 1, 11);
        departed.forget(Millis(104), 100);
        assert_eq!(departed.first(), Some(Millis(5)));
        departed.forget(Millis(107), 100);
        assert_eq!(departed.take(&2), None);
        assert_eq!(departed.take(&1), Some(11));
        departed.forget(Millis(108), 100);
        assert_eq!(departed.first(), None);
    }
}
