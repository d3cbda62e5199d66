//! A map split into many tables, so that growth moves a few entries at a time instead of a million.

use std::borrow::Borrow;
use std::hash::Hash;

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::{Entry, OccupiedEntry};

pub(crate) struct Buckets<K, V> {
    buckets: Box<[HashTable<(K, V)>]>,
    /// One hash selects both the table and the place in it.
    hasher: RandomState,
}

impl<K: Hash + Eq, V> Buckets<K, V> {
    /// `count` is a power of two. A secret `seed` prevents a peer from choosing keys that fall into one table.
    pub(crate) fn new(count: usize, seed: u64) -> Self {
        assert!(count.is_power_of_two(), "the number of buckets is a power of two");
        Self {
            buckets: (0..count).map(|_| HashTable::new()).collect(),
            hasher: RandomState::with_seeds(seed.rotate_left(32), seed, 0x27d4_eb2f, !seed),
        }
    }

    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (bucket, hash) = self.place(key);
        self.buckets[bucket].find(hash, |(known, _)| known.borrow() == key).map(|(_, value)| value)
    }

    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (bucket, hash) = self.place(key);
        let found = self.buckets[bucket].find_mut(hash, |(known, _)| known.borrow() == key);
        found.map(|(_, value)| value)
    }

    /// The entry for `key`, present or vacant. A lookup followed by an insertion hashes the key once.
    pub(crate) fn entry<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Entry<'_, (K, V)>
    where
        K: Borrow<Q>,
    {
        let (bucket, hash) = self.place(key);
        let Self { buckets, hasher } = self;
        let is_it = |(known, _): &(K, V)| known.borrow() == key;
        buckets[bucket].entry(hash, is_it, |(known, _)| hasher.hash_one(known))
    }

    /// The present entry for `key`. A lookup followed by a removal hashes the key once.
    pub(crate) fn find<Q: Hash + Eq + ?Sized>(
        &mut self,
        key: &Q,
    ) -> Option<OccupiedEntry<'_, (K, V)>>
    where
        K: Borrow<Q>,
    {
        let (bucket, hash) = self.place(key);
        self.buckets[bucket].find_entry(hash, |(known, _)| known.borrow() == key).ok()
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.entry(&key) {
            Entry::Occupied(known) => Some(std::mem::replace(&mut known.into_mut().1, value)),
            Entry::Vacant(free) => {
                free.insert((key, value));
                None
            }
        }
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.find(key).map(|known| known.remove().0.1)
    }

    /// The number of tables. A walk over all entries goes table by table, so that it can pause: an entry that exists
    /// for the whole walk stays in one table.
    pub(crate) fn tables(&self) -> usize {
        self.buckets.len()
    }

    pub(crate) fn table(&self, index: usize) -> impl ExactSizeIterator<Item = (&K, &V)> {
        self.buckets[index].iter().map(|(key, value)| (key, value))
    }

    /// Removes the entries of a table for which `keeps` is false.
    pub(crate) fn retain_table(&mut self, index: usize, mut keeps: impl FnMut(&K, &V) -> bool) {
        self.buckets[index].retain(|(key, value)| keeps(key, value));
    }

    pub(crate) fn len(&self) -> usize {
        self.buckets.iter().map(HashTable::len).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.buckets.iter().flatten().map(|(key, value)| (key, value))
    }

    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> (usize, u64) {
        let hash = self.hasher.hash_one(key);
        // hashbrown takes its group from the low bits and its tag from the top seven.
        ((hash >> 32) as usize & (self.buckets.len() - 1), hash)
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
