//! The heaviest keys of a stream, over the last seconds, in memory that does not grow with the number of keys.
//!
//! The table is that of the space-saving algorithm (Metwally, Agrawal, El Abbadi: Efficient Computation of Frequent and
//! Top-k Elements in Data Streams, 2005): if the table is full, a new key replaces the lightest one and takes over its
//! weight, which is recorded separately. While the window has little weight, every weight is noted. Later only weights
//! above a thousandth of the window's are. Lighter ones are sampled, and each sample counts as such a thousandth. So a
//! note costs one addition and one comparison.

use crate::jitter::Jitter;
use crate::time::Millis;

/// The number of keys in a table.
pub(crate) const KEYS_MAX: usize = 64;

/// The time after which a new table is begun and the old one becomes the former one, milliseconds.
const WINDOW_MS: u64 = 10_000;

/// A sample counts as this fraction of the window's weight so far.
const PRECISION: u64 = 1_024;

pub(crate) struct HeavyHitters<K> {
    /// The table of the present window, and that of the one before.
    present: Table<K>,
    former: Table<K>,
    /// The number of the window, counted from the zero of the clock.
    window: u64,
    since: Millis,
    /// The weight that a sample counts as.
    period: u64,
    /// The light weight since the last sample, and the weight at which the next sample is taken.
    pending: u64,
    threshold: u64,
    jitter: Jitter,
}

struct Table<K> {
    entries: Vec<Entry<K>>,
    total: u64,
}

#[derive(Clone)]
struct Entry<K> {
    key: K,
    weight: u64,
    /// The part of the weight that belongs to the keys that were replaced.
    inherited: u64,
}

impl<K: Eq + Clone> HeavyHitters<K> {
    pub(crate) fn new(seed: u64, now: Millis) -> Self {
        Self {
            present: Table::new(),
            former: Table::new(),
            window: now.0 / WINDOW_MS,
            since: now,
            period: 0,
            pending: 0,
            threshold: 0,
            jitter: Jitter::new(seed),
        }
    }

    /// Adds `weight` to a key. `sample` returns the key and the time. It is called only if a sample is due.
    #[inline]
    pub(crate) fn note(&mut self, weight: u64, sample: impl FnOnce() -> (K, Millis)) {
        self.pending += weight;
        if self.pending > self.threshold {
            let (key, now) = sample();
            self.take(key, weight, now);
        }
    }

    #[cold]
    fn take(&mut self, key: K, weight: u64, now: Millis) {
        self.turn_to(now);
        if weight > 2 * self.period {
            self.pending = self.pending.saturating_sub(weight);
            self.present.add(key, weight);
        } else {
            let mut samples = 0;
            while self.pending > self.threshold {
                samples += 1;
                self.pending -= self.threshold;
                // Distances are random, so that keys that take turns are sampled alike.
                let longest = u32::try_from(2 * self.period - 1).unwrap_or(u32::MAX);
                self.threshold = self.jitter.within(1..=longest).into();
            }
            self.present.add(key, samples * self.period);
        }
        self.period = self.present.total / PRECISION;
    }

    /// The keys and their weights since the begin of the former window, heaviest first, and the time since that begin
    /// in milliseconds.
    pub(crate) fn heaviest(&mut self, now: Millis) -> (Vec<(K, u64)>, u64) {
        self.turn_to(now);
        let own = |entry: &Entry<K>| (entry.key.clone(), entry.weight - entry.inherited);
        let mut sum: Vec<(K, u64)> = self.former.entries.iter().map(own).collect();
        for (key, weight) in self.present.entries.iter().map(own) {
            match sum.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known += weight,
                None => sum.push((key, weight)),
            }
        }
        sum.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
        sum.truncate(KEYS_MAX);
        let begin = self.since.0.max(self.window.saturating_sub(1) * WINDOW_MS);
        (sum, now.0 - begin)
    }

    fn turn_to(&mut self, now: Millis) {
        let window = now.0 / WINDOW_MS;
        if window == self.window {
            return;
        }
        let present = std::mem::replace(&mut self.present, Table::new());
        self.former = if window == self.window + 1 { present } else { Table::new() };
        self.window = window;
        (self.period, self.pending, self.threshold) = (0, 0, 0);
    }
}

impl<K: Eq> Table<K> {
    fn new() -> Self {
        Self { entries: Vec::new(), total: 0 }
    }

    fn add(&mut self, key: K, weight: u64) {
        self.total += weight;
        if let Some(known) = self.entries.iter_mut().find(|entry| entry.key == key) {
            known.weight += weight;
        } else if self.entries.len() < KEYS_MAX {
            self.entries.push(Entry { key, weight, inherited: 0 });
        } else if let Some(lightest) = self.entries.iter_mut().min_by_key(|entry| entry.weight) {
            let inherited = lightest.weight;
            *lightest = Entry { key, weight: inherited + weight, inherited };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hitters() -> HeavyHitters<u32> {
        HeavyHitters::new(7, Millis(500))
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut hitters = hitters();
        for (key, weight) in [(1, 5), (2, 7), (1, 4), (3, 1)] {
            hitters.note(weight, || (key, Millis(600)));
        }
        assert_eq!(hitters.heaviest(Millis(700)), (vec![(1, 9), (2, 7), (3, 1)], 200));
    }

    /// A key with a fifth of the weight among a million others, and two keys that take turns.
    #[test]
    fn heavy_keys_are_found_among_many() {
        let mut hitters = hitters();
        let (mut total, mut samples) = (0, 0);
        for round in 0..1_000_000 {
            for (key, weight) in [(10 + round, 2), (1, 1), (2, 1), (3, 1)] {
                total += weight;
                hitters.note(weight, || {
                    samples += 1;
                    (key, Millis(600))
                });
            }
        }
        let (heaviest, _) = hitters.heaviest(Millis(700));
        let mut keys: Vec<u32> = heaviest[..3].iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [1, 2, 3]);
        for (key, weight) in &heaviest[..3] {
            assert!((total / 5 * 8 / 10..total / 5 * 12 / 10).contains(weight), "{key}: {weight}");
        }
        assert!(heaviest.iter().map(|(_, weight)| weight).sum::<u64>() <= total);
        assert!(samples < 30_000, "{samples} samples");
    }

    /// A key with many small weights between the large ones of another.
    #[test]
    fn small_weights_count_as_much_as_large_ones() {
        let mut hitters = hitters();
        for _ in 0..100_000 {
            hitters.note(1_000, || (1, Millis(600)));
            for _ in 0..10 {
                hitters.note(20, || (2, Millis(600)));
            }
        }
        let (heaviest, _) = hitters.heaviest(Millis(700));
        for ((key, weight), expected) in
            heaviest.into_iter().zip([(1, 100_000_000), (2, 20_000_000)])
        {
            assert_eq!(key, expected.0);
            assert!(weight.abs_diff(expected.1) < expected.1 / 5, "{key}: {weight}");
        }
    }

    /// Of many keys with equal weight none is reported with the weight of those that it replaced.
    #[test]
    fn light_keys_stay_light() {
        let mut hitters = hitters();
        for key in 0..1_000_000 {
            hitters.note(1, || (key, Millis(600)));
        }
        let (heaviest, _) = hitters.heaviest(Millis(700));
        let weights: Vec<u64> = heaviest.into_iter().map(|(_, weight)| weight).collect();
        assert!(weights.iter().all(|weight| *weight < 5_000), "{weights:?}");
    }

    #[test]
    fn weights_are_forgotten_after_two_windows() {
        let mut hitters = hitters();
        hitters.note(5, || (1, Millis(9_000)));
        hitters.note(6, || (2, Millis(12_000)));
        assert_eq!(hitters.heaviest(Millis(13_000)), (vec![(2, 6), (1, 5)], 12_500));
        assert_eq!(hitters.heaviest(Millis(23_000)), (vec![(2, 6)], 13_000));
        hitters.note(1, || (1, Millis(45_000)));
        assert_eq!(hitters.heaviest(Millis(46_000)), (vec![(1, 1)], 16_000));
        assert_eq!(hitters.heaviest(Millis(90_000)), (vec![], 10_000));
    }
}
