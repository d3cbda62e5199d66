//! Random numbers for jitter: the same seed gives the same ones, so a simulated run can be replayed.

use std::ops::RangeInclusive;

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator of its own. Processes that must not act in step need different seeds.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number within `range`.
    ///
    /// # Panics
    /// If `range` is empty.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        assert!(!range.is_empty(), "there is a number to choose");
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let width = u128::from(range.end() - range.start()) + 1;
        // The upper half of the product is below `width`.
        range.start() + ((u128::from(bits) * width) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fill_their_range_and_repeat_with_their_seed() {
        let mut random = Random::new(42);
        let mut seen = [0; 5];
        for _ in 0..1_000 {
            seen[random.within(10..=14) as usize - 10] += 1;
        }
        assert!(seen.iter().all(|times| *times > 100), "{seen:?}");
        assert_eq!(random.within(7..=7), 7);
        random.within(0..=u64::MAX);
        let draw = |seed| {
            let mut random = Random::new(seed);
            [(); 4].map(|()| random.within(0..=u64::MAX))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
