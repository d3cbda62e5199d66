//! The server's own counts across the processes of a run: no counter may fall, and its ledger must balance.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use crate::Result;
use crate::scrape::{Counted, http_get};

/// Figures of the process itself are not handed over (docs/OPERATIONS.md, Upgrade).
const OF_A_PROCESS: &str = "process_";

/// The counts at one moment.
pub(super) struct Books {
    pub counted: Counted,
    /// All counters by series.
    counters: BTreeMap<String, f64>,
}

/// The server's counts for a run, and the faults in them.
#[derive(Default, Serialize)]
pub(super) struct Audit {
    pub matched: u64,
    pub queued: u64,
    pub dropped: u64,
    pub sent: u64,
    pub lost: u64,
    pub waiting: u64,
    pub received: u64,
    pub counters: usize,
    #[serde(skip)]
    pub faults: Vec<String>,
}

impl Books {
    /// Asks the server for its counts. Fails if it does not answer with metrics.
    pub(super) fn of(stat: SocketAddr) -> Result<Self> {
        let text = http_get(stat, "/metrics")?;
        Ok(Self { counted: Counted::of(stat)?, counters: counters(&text) })
    }

    /// Counters that have fallen since `earlier`, or are gone.
    pub(super) fn fallen(&self, earlier: &Self) -> Vec<String> {
        let fallen = earlier.counters.iter().filter_map(|(series, before)| {
            let now = self.counters.get(series).copied();
            // A series may be missing until it has a count.
            let has_fallen = now.unwrap_or(0.0) < *before;
            has_fallen.then(|| format!("{series} fell from {before} to {now:?}"))
        });
        fallen.collect()
    }

    /// The counts since `earlier`. The books must balance: everything that pushes asked for is queued or dropped, and
    /// everything queued is sent, lost with its connection, superseded, or waiting.
    pub(super) fn audit(&self, earlier: &Self) -> Audit {
        let Counted { matched, queued, dropped, sent, lost, superseded, waiting, .. } =
            self.counted.since(&earlier.counted);
        let mut faults = Vec::new();
        if matched != queued + dropped {
            faults.push(format!("{matched} matched, and {queued} queued with {dropped} dropped"));
        }
        let known = sent + lost + superseded + waiting;
        if queued + earlier.counted.waiting != known {
            faults.push(format!(
                "{queued} queued, and {sent} sent, {lost} lost, {superseded} superseded, {waiting} waiting"
            ));
        }
        let received = self.sum("comet_received_total") - earlier.sum("comet_received_total");
        let counters = self.counters.len();
        Audit {
            matched,
            queued,
            dropped,
            sent,
            lost,
            waiting,
            received: received as u64,
            counters,
            faults,
        }
    }

    /// Calls to logic that were not answered with OK, worded for a sentence.
    pub(super) fn failed_calls(&self) -> String {
        let of = |(series, count): (&String, &f64)| {
            let is_failure =
                series.starts_with("comet_logic_calls_total") && !series.contains("code=\"Ok\"");
            is_failure.then(|| format!("{series} {count}"))
        };
        self.counters.iter().filter_map(of).collect::<Vec<_>>().join(", ")
    }

    /// The sum over all cores.
    fn sum(&self, name: &str) -> f64 {
        let of = |series: &&String| series.split('{').next() == Some(name);
        self.counters.iter().filter(|(series, _)| of(series)).map(|(_, count)| count).sum()
    }
}

/// All counters in a page of metrics, including those of histograms.
fn counters(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            kinds.insert(name, kind);
            continue;
        }
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        let of_histogram =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let is_counter = kinds.get(name) == Some(&"counter")
            || of_histogram.is_some_and(|name| kinds.get(name) == Some(&"histogram"));
        if is_counter
            && !name.starts_with(OF_A_PROCESS)
            && let Ok(value) = value.parse()
        {
            found.insert(series.to_owned(), value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(text: &str) -> Books {
        Books { counted: Counted::default(), counters: counters(text) }
    }

    #[test]
    fn a_counter_that_falls_is_named() {
        let page = |a, b, c| {
            format!(
                "# TYPE process_x counter\nprocess_x {a}\n\
                 # TYPE a_total counter\na_total{{core=\"0\"}} {a}\n# TYPE b gauge\nb {b}\n\
                 # TYPE c histogram\nc_bucket{{le=\"1\"}} {c}\nc_sum 0.5\n"
            )
        };
        let before = books(&page(2, 2, 2));
        assert_eq!(books(&page(2, 1, 3)).fallen(&before), [""; 0]);
        let fallen = books(&page(1, 2, 1)).fallen(&before);
        assert_eq!(fallen.len(), 2, "{fallen:?}");
        assert_eq!(books("").fallen(&before).len(), 3, "what is gone has fallen, too");
    }

    #[test]
    fn books_that_do_not_balance_are_named() {
        let before = books("");
        let check = |matched, sent, faults| {
            let counted =
                Counted { matched, queued: 5, dropped: 2, sent, waiting: 1, ..Counted::default() };
            let audit = Books { counted, counters: BTreeMap::new() }.audit(&before);
            assert_eq!(audit.faults.len(), faults, "{:?}", audit.faults);
        };
        check(7, 4, 0);
        check(8, 4, 1);
        check(7, 3, 1);
    }
}
