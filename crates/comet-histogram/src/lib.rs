//! Counts of times in buckets whose bounds double, from 4 us to 8 s.
//!
//! To record a time takes a shift and three additions, without a lock or an allocation: a core does it in its turn. Who
//! records also reads, and passes a copy on.
//!
//! **Invariant:** nothing here reads a clock.

use std::time::Duration;

/// The first bound is two to this power, microseconds.
const FIRST_POWER: u32 = 2;

/// Bounds of a histogram. Times above the last one are in a bucket of their own.
const BOUNDS: usize = 22;

/// How many times were recorded, by bucket, and their sum.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    /// Each without the ones before it.
    buckets: [u64; BOUNDS + 1],
    sum_micros: u64,
}

impl Histogram {
    /// Counts a time, in microseconds.
    #[inline]
    pub fn record(&mut self, micros: u64) {
        self.record_many(micros, 1);
    }

    /// Counts a time.
    pub fn record_time(&mut self, time: Duration) {
        self.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts the same time `times` times.
    #[inline]
    pub fn record_many(&mut self, micros: u64, times: u64) {
        self.buckets[bucket(micros)] += times;
        self.sum_micros = self.sum_micros.saturating_add(micros.saturating_mul(times));
    }

    /// Times recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// The counts of the buckets, each without the ones before it, and the sum in microseconds.
    #[must_use]
    pub fn parts(&self) -> (&[u64], u64) {
        let Self { buckets, sum_micros } = self;
        (buckets, *sum_micros)
    }

    /// What [`Histogram::parts`] gave. `None`: the buckets are others.
    #[must_use]
    pub fn from_parts(buckets: &[u64], sum_micros: u64) -> Option<Self> {
        Some(Self { buckets: buckets.try_into().ok()?, sum_micros })
    }

    /// Each bound, and how many times were at most that long. Those above the last bound are only in
    /// [`Histogram::count`].
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let bounds = (FIRST_POWER..).map(|power| Duration::from_micros(1 << power));
        bounds.zip(&self.buckets[..BOUNDS]).scan(0, |below, (bound, count)| {
            *below += count;
            Some((bound, *below))
        })
    }
}

/// The first bucket whose bound is `micros` or more.
#[inline]
fn bucket(micros: u64) -> usize {
    let power = u64::BITS - (micros.saturating_sub(1) >> FIRST_POWER).leading_zeros();
    (power as usize).min(BOUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_its_bound_and_nothing_above() {
        for power in 0..BOUNDS {
            let bound = 1 << (FIRST_POWER as usize + power);
            assert_eq!(bucket(bound), power);
            assert_eq!(bucket(bound + 1), power + 1);
        }
        assert_eq!((bucket(0), bucket(1), bucket(u64::MAX)), (0, 0, BOUNDS));
    }

    #[test]
    fn counts_are_cumulative_and_their_sum_is_kept() {
        let mut histogram = Histogram::default();
        histogram.record(4);
        histogram.record(5);
        histogram.record_many(8, 2);
        histogram.record(60_000_000);
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative.len(), BOUNDS);
        let micros = Duration::from_micros;
        assert_eq!(cumulative[..3], [(micros(4), 1), (micros(8), 4), (micros(16), 4)]);
        assert_eq!(cumulative[BOUNDS - 1], (micros(8_388_608), 4));
        assert_eq!((histogram.count(), histogram.sum()), (5, micros(60_000_025)));
    }
}
