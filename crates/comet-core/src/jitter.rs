//! Random numbers that spread work over time. The same seed gives the same numbers, so a simulated run can be replayed.

use std::ops::RangeInclusive;

use ahash::RandomState;

/// An independent generator. Its numbers reveal nothing about its seed, so the seed may be that of hash maps. Processes
/// that must not act in step need different seeds.
pub struct Jitter {
    hasher: RandomState,
    drawn: u64,
}

impl Jitter {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { hasher: RandomState::with_seeds(seed, !seed, 0x94d0_49bb, 0x1331_11eb), drawn: 0 }
    }

    /// The next number within `range`.
    ///
    /// # Panics
    /// If `range` is empty.
    pub fn within(&mut self, range: RangeInclusive<u32>) -> u32 {
        assert!(!range.is_empty(), "there is a number to choose");
        self.drawn = self.drawn.wrapping_add(1);
        let hash = self.hasher.hash_one(self.drawn);
        let width = u64::from(range.end() - range.start()) + 1;
        // Multiply-shift of the upper half keeps the product within 64 bits.
        range.start() + (((hash >> 32) * width) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_within_their_range_and_fill_it() {
        let mut jitter = Jitter::new(42);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[jitter.within(10..=14) as usize - 10] += 1;
        }
        assert!(seen.iter().all(|times| *times > 100), "{seen:?}");
        assert_eq!(jitter.within(7..=7), 7);
        for _ in 0..1000 {
            jitter.within(0..=u32::MAX);
        }
    }
}
