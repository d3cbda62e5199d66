//! Repeated failures, for the log: one line when they begin, and one when they are over.
//!
//! A series of failures is over with a success after a quiet time. So single failures among successes do not each write
//! a line.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

use comet_core::Millis;

/// Time without another failure after which a success ends the series, milliseconds.
const QUIET_MS: u64 = 10_000;

#[derive(Debug)]
struct State {
    failures: u64,
    last: Millis,
}

/// The series of failures under way.
#[derive(Debug)]
pub(crate) struct Failing<K>(BTreeMap<K, State>);

impl<K> Default for Failing<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Failing<K> {
    /// Notes that `key` failed. True: a new series begins.
    #[must_use]
    pub(crate) fn begins(&mut self, now: Millis, key: K) -> bool {
        let state = self.0.entry(key).or_insert(State { failures: 0, last: now });
        state.failures += 1;
        state.last = now;
        state.failures == 1
    }

    /// Removes a `key` that no longer exists.
    pub(crate) fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Notes a success for `keys`. Returns the keys whose series is over, and how often each failed.
    pub(crate) fn ended(
        &mut self,
        now: Millis,
        keys: impl RangeBounds<K>,
    ) -> impl Iterator<Item = (K, u64)> {
        let is_over = move |_: &K, state: &mut State| state.last.after(QUIET_MS) <= now;
        self.0.extract_if(keys, is_over).map(|(key, state)| (key, state.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_ends_with_a_success_after_a_quiet_time() {
        let mut failing = Failing::default();
        let ended = |failing: &mut Failing<u8>, now, keys: std::ops::RangeInclusive<u8>| {
            failing.ended(Millis(now), keys).collect::<Vec<_>>()
        };
        assert!(ended(&mut failing, 0, 0..=9).is_empty());
        assert!(failing.begins(Millis(1), 1));
        assert!(!failing.begins(Millis(2), 1));
        assert!(ended(&mut failing, 2 + QUIET_MS - 1, 0..=9).is_empty());
        assert!(ended(&mut failing, 2 + QUIET_MS, 2..=9).is_empty());
        assert_eq!(ended(&mut failing, 2 + QUIET_MS, 0..=9), [(1, 2)]);
        assert!(failing.begins(Millis(50_000), 1));
    }
}
