//! The delay before the next attempt to connect.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Delays that grow with each failed attempt and are random, so that a million clients that lost
/// the same server do not reconnect at the same moment.
///
/// The delay before attempt `n` (from 0) is uniformly distributed from `base` to
/// `base * 2^(n + 1)`, and at most `max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

impl Backoff {
    /// Delays between `base` and `max`.
    ///
    /// # Panics
    /// If `base` is zero or longer than `max`.
    #[must_use]
    pub fn new(base: Duration, max: Duration) -> Self {
        assert!(!base.is_zero(), "a delay of zero is a busy loop");
        assert!(base <= max, "the shortest delay is longer than the longest");
        Self { base, max }
    }

    /// The longest delay.
    pub(crate) fn max(self) -> Duration {
        self.max
    }

    /// The delay before the next attempt, after `attempt` failed ones.
    pub(crate) fn delay(self, attempt: u32, rng: &mut impl Rng) -> Duration {
        let doublings = attempt.saturating_add(1).min(31);
        let ceiling = self.base.saturating_mul(1 << doublings).min(self.max);
        rng.random_range(self.base..=ceiling)
    }
}

/// From one second to two minutes.
impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(120))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    proptest! {
        #[test]
        fn a_delay_is_between_base_and_the_doubled_ceiling(
            base_ms in 1_u64..10_000,
            more_ms in 0_u64..1_000_000,
            attempt: u32,
            seed: u64,
        ) {
            let base = Duration::from_millis(base_ms);
            let max = base + Duration::from_millis(more_ms);
            let delay = Backoff::new(base, max).delay(attempt, &mut StdRng::seed_from_u64(seed));
            let doubled = base_ms.saturating_mul(1 << attempt.saturating_add(1).min(40));
            prop_assert!(base <= delay && delay <= max);
            prop_assert!(delay <= Duration::from_millis(doubled));
        }
    }

    #[test]
    fn delays_grow_with_attempts_and_are_spread() {
        let backoff = Backoff::default();
        let mut rng = StdRng::seed_from_u64(1);
        let mut mean_ms = |attempt| {
            let delays: Vec<_> = (0..1_000).map(|_| backoff.delay(attempt, &mut rng)).collect();
            let spread = *delays.iter().max().unwrap() - *delays.iter().min().unwrap();
            assert!(spread > delays[0] / 4, "attempt {attempt} spreads over {spread:?} only");
            delays.iter().sum::<Duration>().as_millis() / 1_000
        };
        let means: Vec<_> = (0..7).map(&mut mean_ms).collect();
        assert!(means.is_sorted(), "{means:?}");
        assert!(means[0] < 2_000 && means[6] > 50_000, "{means:?}");
    }
}
