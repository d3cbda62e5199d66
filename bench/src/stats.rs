//! Percentiles of one run and the spread of a figure over several runs.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use derive_more::{Deref, DerefMut};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::SECOND_NS;

/// Longer latencies are recorded as this.
const LATENCY_MAX_NS: u64 = 120 * SECOND_NS;

/// Points of a curve for each factor of ten in the share of values above.
const POINTS_PER_DECADE: u32 = 20;
/// The curve ends at 99.99 %.
const DECADES: u32 = 4;

/// Latencies in ns, to three digits. In JSON they are pairs of a value and how often it was recorded, which is exact:
/// all histograms have the same buckets.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, Deref, DerefMut)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are in order"))
    }
}

impl AddAssign for Latencies {
    fn add_assign(&mut self, other: Self) {
        self.0.add(other.0).expect("all have the same bounds");
    }
}

impl From<Latencies> for Vec<(u64, u64)> {
    fn from(latencies: Latencies) -> Self {
        let recorded = latencies.iter_recorded();
        recorded.map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
    }
}

impl From<Vec<(u64, u64)>> for Latencies {
    fn from(pairs: Vec<(u64, u64)>) -> Self {
        let mut latencies = Self::default();
        pairs.into_iter().for_each(|(value, count)| latencies.saturating_record_n(value, count));
        latencies
    }
}

/// Counts by reason.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, Deref, DerefMut)]
pub(crate) struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    /// Adds `count`.
    pub(crate) fn add(&mut self, reason: &str, count: u64) {
        *self.0.entry(reason.to_owned()).or_default() += count;
    }

    /// The count over all reasons.
    pub(crate) fn total(&self) -> u64 {
        self.values().sum()
    }
}

impl AddAssign for Reasons {
    fn add_assign(&mut self, other: Self) {
        other.iter().for_each(|(reason, count)| self.add(reason, *count));
    }
}

/// The usual percentiles, in microseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Percentiles {
    /// The number of values.
    pub count: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    /// Pairs of percent and microseconds, dense enough to draw; the last one is 100 %.
    pub curve: Vec<(f64, f64)>,
}

impl Percentiles {
    pub(crate) fn of(histogram: &Latencies) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
            curve: curve(histogram),
        }
    }
}

/// Percentiles at even steps of the logarithm of the share of values above them, so that the tail has as many points as
/// the body. They end where less than one value is above.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let rounded = |value: f64, steps: f64| (value * steps).round() / steps;
    let point =
        |quantile: f64, ns: u64| (rounded(quantile * 100.0, 1e4), rounded(ns as f64 / 1e3, 1e1));
    let mut points = Vec::new();
    for step in 0..=POINTS_PER_DECADE * DECADES {
        let above = 10_f64.powf(-f64::from(step) / f64::from(POINTS_PER_DECADE));
        if above * (histogram.len() as f64) < 1.0 {
            break;
        }
        points.push(point(1.0 - above, histogram.value_at_quantile(1.0 - above)));
    }
    points.push(point(1.0, histogram.max()));
    points
}

/// One figure over the rounds of a run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// The spread of one value for each round; `None` if there are no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }

    /// The same spread in another unit.
    pub(crate) fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let check = |values: &[f64], expected| {
            let spread = Spread::of(values.iter().copied());
            assert_eq!(spread.map(|is| (is.median, is.min, is.max)), expected, "{values:?}");
        };
        check(&[], None);
        check(&[3.0], Some((3.0, 3.0, 3.0)));
        check(&[5.0, 1.0, 2.0], Some((2.0, 1.0, 5.0)));
        check(&[4.0, 1.0], Some((2.5, 1.0, 4.0)));
    }

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut histogram = Latencies::default();
        for microseconds in 1..=1000 {
            histogram.record(microseconds * 1000).unwrap();
        }
        let is = Percentiles::of(&histogram);
        assert_eq!(is.count, 1000);
        assert!((is.p50_us - 500.0).abs() < 1.0, "{is:?}");
        assert!((is.p99_us - 990.0).abs() < 1.0, "{is:?}");
        assert!((is.max_us - 1000.0).abs() < 1.0, "{is:?}");
    }

    #[test]
    fn a_curve_goes_as_far_as_its_values() {
        assert!(Percentiles::of(&Latencies::default()).curve.is_empty());
        let curve_of = |count| {
            let mut histogram = Latencies::default();
            for microseconds in 1..=count {
                histogram.record(microseconds * 1000).unwrap();
            }
            Percentiles::of(&histogram).curve
        };
        let short = curve_of(100);
        assert_eq!(short.len(), 42, "two decades, both their ends, and the maximum");
        let long = curve_of(100_000);
        assert_eq!(long.len(), 82);
        assert_eq!((long[0].0, long[80].0, long[81].0), (0.0, 99.99, 100.0));
        assert!(long.is_sorted(), "{long:?}");
        assert!((long[20].1 - 90_000.0).abs() < 100.0, "{:?}", long[20]);
    }
}
