//! Counts of fetches of token keys from URLs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::exposition::{Exposition, Kind};

/// By URL. The process has one set of URLs, whichever server it is.
static FETCHES: Mutex<BTreeMap<String, Fetches>> = Mutex::new(BTreeMap::new());

struct Fetches {
    /// When the keys were last fetched; before the first success, when the first fetch began.
    fetched_at: Instant,
    failures: u64,
}

/// Counts a fetch of `url`, and whether it succeeded.
pub fn count_key_fetch(url: &str, is_good: bool) {
    let mut all = FETCHES.lock().unwrap_or_else(PoisonError::into_inner);
    let first = || Fetches { fetched_at: Instant::now(), failures: 0 };
    let fetches = all.entry(url.to_owned()).or_insert_with(first);
    match is_good {
        true => fetches.fetched_at = Instant::now(),
        false => fetches.failures += 1,
    }
}

/// Adds the families, if anything was fetched.
pub(crate) fn expose(page: &mut Exposition) {
    let all = FETCHES.lock().unwrap_or_else(PoisonError::into_inner);
    if all.is_empty() {
        return;
    }
    let help =
        "Time since the keys of a URL were fetched, or since the first fetch failed, by URL.";
    let mut ages = page.family("comet_token_keys_age_seconds", Kind::Gauge, help);
    for (url, fetches) in &*all {
        ages.labelled(&[("url", url)], fetches.fetched_at.elapsed());
    }
    let help = "Fetches of the keys of a URL that failed, by URL.";
    let mut failures = page.family("comet_token_keys_failures_total", Kind::Counter, help);
    for (url, fetches) in &*all {
        failures.labelled(&[("url", url)], fetches.failures);
    }
}
