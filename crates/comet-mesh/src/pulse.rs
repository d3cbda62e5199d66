//! The sign of life of a thread that may sleep.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::wake::Wake;

/// When a thread last took a turn. Times are milliseconds of a clock that its owner and its watchers share. An idle
/// thread sleeps and takes no turns; [`Pulse::check`] wakes it for one.
pub struct Pulse {
    latest_ms: AtomicU64,
    thread: Arc<dyn Wake>,
}

/// Stored in place of a time: the thread has ended normally.
const ENDED: u64 = u64::MAX;

impl Pulse {
    /// The pulse of the thread that `thread` wakes. Until its first turn, `now_ms` counts as the latest one, because
    /// the clock may have begun long before the thread.
    #[must_use]
    pub fn new(thread: Arc<dyn Wake>, now_ms: u64) -> Self {
        Self { latest_ms: AtomicU64::new(now_ms), thread }
    }

    /// Call this in each turn.
    pub fn beat(&self, now_ms: u64) {
        self.latest_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Call this when the thread ends: after that its silence means nothing.
    pub fn end(&self) {
        self.latest_ms.store(ENDED, Ordering::Relaxed);
    }

    /// The time since the latest turn.
    #[must_use]
    pub fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.latest_ms.load(Ordering::Relaxed)))
    }

    /// Wakes the thread for a turn if it has taken none for `period`. Returns the time since the latest one.
    pub fn check(&self, now_ms: u64, period: Duration) -> Duration {
        let age = self.age(now_ms);
        if age >= period {
            self.thread.wake();
        }
        age
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pulse").field("latest_ms", &self.latest_ms).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Asleep;

    impl Wake for Asleep {
        fn wake(&self) {}
    }

    #[test]
    fn a_thread_before_its_first_turn_is_as_silent_as_its_pulse_is_old() {
        let pulse = Pulse::new(Arc::new(Asleep), 60_000);
        assert_eq!(pulse.age(60_000), Duration::ZERO);
        assert_eq!(pulse.age(70_000), Duration::from_secs(10));
        pulse.beat(70_000);
        assert_eq!(pulse.age(70_001), Duration::from_millis(1));
    }
}
