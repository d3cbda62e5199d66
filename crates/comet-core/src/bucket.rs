//! A map in many pieces, so that growing moves a few entries at a time and not a million at once.

use std::borrow::Borrow;
use std::hash::Hash;

use ahash::{AHashMap, RandomState};

pub(crate) struct Buckets<K, V> {
    buckets: Box<[AHashMap<K, V>]>,
    /// Picks the bucket; each map hashes with keys of its own.
    pick: RandomState,
}

impl<K: Hash + Eq, V> Buckets<K, V> {
    /// `count` is a power of two; `seed` keeps hostile keys from aiming at one bucket.
    pub(crate) fn new(count: usize, seed: u64) -> Self {
        assert!(count.is_power_of_two(), "the number of buckets is a power of two");
        let inside = RandomState::with_seeds(seed, !seed, seed.rotate_left(17), 0x5bd1_e995);
        Self {
            buckets: (0..count).map(|_| AHashMap::with_hasher(inside.clone())).collect(),
            pick: RandomState::with_seeds(seed.rotate_left(32), seed, 0x27d4_eb2f, !seed),
        }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.buckets[self.index(key)].get(key)
    }

    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let index = self.index(key);
        self.buckets[index].get_mut(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.index(&key);
        self.buckets[index].insert(key, value)
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.index(key);
        self.buckets[index].remove(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.buckets.iter().map(|map| map.len()).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.buckets.iter().flatten()
    }

    fn index<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // hashbrown takes its group from the low bits and its tag from the top seven.
        (self.pick.hash_one(key) >> 32) as usize & (self.buckets.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_as_one_map_and_spreads_its_keys() {
        let mut buckets: Buckets<Box<str>, u32> = Buckets::new(16, 42);
        for key in 0..1000 {
            assert_eq!(buckets.insert(key.to_string().into(), key), None);
        }
        assert_eq!(buckets.len(), 1000);
        assert_eq!(buckets.get("77"), Some(&77));
        assert_eq!(buckets.insert("77".into(), 78), Some(77));
        assert_eq!(buckets.remove("77"), Some(78));
        assert_eq!(buckets.get("77"), None);
        assert_eq!(buckets.iter().count(), 999);
        assert!(buckets.buckets.iter().all(|map| (20..130).contains(&map.len())));
    }
}
