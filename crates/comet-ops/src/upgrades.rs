//! Upgrades of this process, and of those that it has taken over from.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::exposition::{Exposition, Kind};

/// The name of the family.
pub(crate) const FAMILY: &str = "comet_upgrades_total";

/// By result.
static UPGRADES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// Adds `count` upgrades that ended with `result`. With 0 the result is shown as 0.
pub fn count_upgrades(result: &str, count: u64) {
    let mut upgrades = UPGRADES.lock().unwrap_or_else(PoisonError::into_inner);
    *upgrades.entry(result.to_owned()).or_default() += count;
}

/// All upgrades, by result.
#[must_use]
pub fn upgrades() -> BTreeMap<String, u64> {
    UPGRADES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Adds the family, if there is a result.
pub(crate) fn expose(page: &mut Exposition) {
    let upgrades = upgrades();
    if upgrades.is_empty() {
        return;
    }
    let help = "Live upgrades by what became of them: done, or why the former process went on.";
    let mut family = page.family(FAMILY, Kind::Counter, help);
    for (result, count) in upgrades {
        family.labelled(&[("result", &result)], count);
    }
}
