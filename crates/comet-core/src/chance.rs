//! Numbers to spread things over time by; the same secret gives the same ones.

use std::ops::RangeInclusive;

use ahash::RandomState;

pub(crate) struct Chance {
    secret: RandomState,
    drawn: u64,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self { secret: RandomState::with_seeds(seed, !seed, 0x94d0_49bb, 0x1331_11eb), drawn: 0 }
    }

    /// The next number within `range`, which is not empty.
    pub(crate) fn within(&mut self, range: RangeInclusive<u32>) -> u32 {
        self.drawn = self.drawn.wrapping_add(1);
        let hash = self.secret.hash_one(self.drawn);
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
        let mut chance = Chance::new(42);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[chance.within(10..=14) as usize - 10] += 1;
        }
        assert!(seen.iter().all(|times| *times > 100), "{seen:?}");
        assert_eq!(chance.within(7..=7), 7);
        for _ in 0..1000 {
            chance.within(0..=u32::MAX);
        }
    }
}
