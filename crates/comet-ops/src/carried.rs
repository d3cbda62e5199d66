//! Counters of the process that this one has taken over from in a live upgrade. They continue here, so that no counter
//! decreases. Those of shards are handed over with the shards.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::number::Number;

/// By family.
static CARRIED: Mutex<BTreeMap<String, Carried>> = Mutex::new(BTreeMap::new());

/// Samples of a family by name with labels, with their positions on the page.
#[derive(Clone, Default, Debug)]
pub(crate) struct Carried(BTreeMap<String, (usize, Number)>);

/// Continues the counters and histograms of `page`, which has the form of [`Exposition`](crate::Exposition), in this
/// process. `process_*` belong to one process only, and [`count_upgrades`](crate::count_upgrades) is carried
/// separately. Lines that are not samples are ignored.
pub fn carry(page: &str) {
    let mut families: BTreeMap<String, Carried> = BTreeMap::new();
    let mut family = None;
    for line in page.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            family = declared
                .split_once(' ')
                .filter(|(name, kind)| {
                    matches!(*kind, "counter" | "histogram")
                        && name.starts_with("comet_")
                        && *name != crate::upgrades::FAMILY
                })
                .map(|(name, _)| (name, families.entry(name.to_owned()).or_default()));
        } else if let Some((name, Carried(samples))) = &mut family
            && line.starts_with(*name)
            && let Some((sample, value)) = line.rsplit_once(' ')
            && let Some(value) = number(value)
        {
            let place = samples.len();
            samples.insert(sample.to_owned(), (place, value));
        }
    }
    *CARRIED.lock().unwrap_or_else(PoisonError::into_inner) = families;
}

pub(crate) fn of_family(name: &str) -> Carried {
    CARRIED.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
}

/// Parses a number as it is written: a whole number, or seconds with nine digits.
fn number(text: &str) -> Option<Number> {
    match text.split_once('.') {
        None => text.parse().ok().map(Number::Whole),
        Some((seconds, nanos)) if nanos.len() == 9 => {
            Some(Number::Seconds(Duration::new(seconds.parse().ok()?, nanos.parse().ok()?)))
        }
        Some(_) => None,
    }
}

impl Carried {
    /// `value` of `sample`, plus the former process's value.
    pub(crate) fn add_to(&mut self, sample: &str, value: Number) -> Number {
        match (value, self.0.remove(sample)) {
            (Number::Whole(one), Some((_, Number::Whole(other)))) => {
                Number::Whole(one.saturating_add(other))
            }
            (Number::Seconds(one), Some((_, Number::Seconds(other)))) => {
                Number::Seconds(one.saturating_add(other))
            }
            (value, _) => value,
        }
    }

    /// Samples to which nothing was added, in the order in which they were written.
    pub(crate) fn into_rest(self) -> impl Iterator<Item = (String, Number)> {
        let mut rest: Vec<_> = self.0.into_iter().collect();
        rest.sort_by_key(|(_, (place, _))| *place);
        rest.into_iter().map(|(sample, (_, value))| (sample, value))
    }
}

#[cfg(test)]
mod tests {
    use comet_histogram::Histogram;

    use super::*;
    use crate::{Exposition, Kind};

    /// The page of metrics of a process with these counts.
    fn page(goes_on: bool, calls: &[(&str, u64)], micros: &[u64]) -> String {
        let mut page = Exposition::default();
        page.family("comet_carried_of_shards_total", Kind::Counter, "").sample(7);
        if goes_on {
            page.go_on();
        }
        page.family("comet_carried_total", Kind::Counter, "").sample(calls.len() as u64);
        page.family("comet_carried_busy_seconds_total", Kind::Counter, "")
            .sample(Duration::from_nanos(1_500_000_001));
        page.family("comet_carried_now", Kind::Gauge, "").sample(3);
        page.family("process_carried_total", Kind::Counter, "").sample(3);
        let mut family = page.family("comet_carried_calls_total", Kind::Counter, "");
        for (rpc, count) in calls {
            family.labelled(&[("rpc", rpc), ("code", &"a b\"c")], *count);
        }
        let mut times = Histogram::default();
        micros.iter().for_each(|micros| times.record(*micros));
        page.family("comet_carried_seconds", Kind::Histogram, "").times(("x", &1), &times);
        page.finish()
    }

    fn check_what_is_no_page() {
        carry(
            "# TYPE comet_bad_total counter\ncomet_bad_total x\ncomet_bad_total 1.5\n1\n\n# TYPE\n7 7\n",
        );
        let mut page = Exposition::default();
        page.go_on();
        page.family("comet_bad_total", Kind::Counter, "").sample(2);
        assert!(page.finish().ends_with("\ncomet_bad_total 2\n"));
    }

    /// Twice in a row, so the second process carries the counts of the first.
    #[test]
    fn counters_and_histograms_go_on_and_nothing_else_does() {
        carry(&page(false, &[("Push", 2), ("Gone", 5)], &[5, 60_000_000]));
        carry(&page(true, &[("Push", 1)], &[5]));
        let page = page(true, &[("New", 4), ("Push", 8)], &[7]);
        let value = |sample: &str| {
            let line = page.lines().find(|line| line.starts_with(&format!("{sample} ")));
            line.unwrap_or_else(|| panic!("{sample}: {page}")).rsplit_once(' ').unwrap().1
        };
        for (sample, expected) in [
            ("comet_carried_of_shards_total", "7"),
            ("comet_carried_total", "5"),
            ("comet_carried_busy_seconds_total", "4.500000003"),
            ("comet_carried_now", "3"),
            ("process_carried_total", "3"),
            (r#"comet_carried_calls_total{rpc="New",code="a b\"c"}"#, "4"),
            (r#"comet_carried_calls_total{rpc="Push",code="a b\"c"}"#, "11"),
            (r#"comet_carried_calls_total{rpc="Gone",code="a b\"c"}"#, "5"),
            (r#"comet_carried_seconds_bucket{x="1",le="0.000004"}"#, "0"),
            (r#"comet_carried_seconds_bucket{x="1",le="0.000008"}"#, "3"),
            (r#"comet_carried_seconds_bucket{x="1",le="+Inf"}"#, "4"),
            (r#"comet_carried_seconds_sum{x="1"}"#, "60.000017000"),
            (r#"comet_carried_seconds_count{x="1"}"#, "4"),
        ] {
            assert_eq!(value(sample), expected, "{sample}");
        }
        // The carried counts are global to the process, so one test checks everything.
        check_what_is_no_page();
    }
}
