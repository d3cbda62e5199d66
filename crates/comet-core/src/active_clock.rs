//! Active time: elapsed time without the spans in which the thread was held up.
//!
//! A process may be stopped, swapped out or starved of its CPU, which its peers cannot know. Then messages that they
//! sent in time are read late, and their next messages wait for late answers. So deadlines of peers count active time.

use crate::limits::TICK_MS;
use crate::time::Millis;

/// A wake-up that is later than this is a stall, milliseconds. On a busy machine threads are delayed for less.
const STALL_MS: u64 = 250;

/// The longest sleep of a thread that has deadlines, milliseconds. If a stall begins during a sleep, none of the sleep
/// is active time, because nothing shows when the stall began.
const SLEEP_MS_MAX: u64 = 1_000;

/// Converts the time of a thread into its active time.
///
/// A stall of any length, together with the 250 ms after it, adds one tick to active time. In these 250 ms input that
/// arrived during the stall is read. So on a machine that stalls again and again deadlines are late, but they are
/// reached.
#[derive(Clone, Copy, Debug)]
pub struct ActiveClock {
    now: Millis,
    /// The time that does not count.
    stalled_ms: u64,
    /// A lower bound of active time, so that it never goes back.
    floor: Millis,
}

impl ActiveClock {
    /// A clock without stalls.
    #[must_use]
    pub fn new(now: Millis) -> Self {
        Self { now, stalled_ms: 0, floor: now }
    }

    /// Sets the time to `now`. `due` returns the time at which the thread meant to wake at the latest; `None` if
    /// nothing was due. A `now` before the last one counts as the last one.
    pub fn advance(&mut self, now: Millis, due: impl FnOnce() -> Option<Millis>) {
        let gap = now.0.saturating_sub(self.now.0);
        if gap > STALL_MS
            && let Some(due) = due()
            && now > due.max(self.now).after(STALL_MS)
        {
            self.floor = self.active().after(TICK_MS);
            self.stalled_ms = now.after(STALL_MS).0 - self.floor.0;
        }
        self.now = self.now.max(now);
    }

    /// The active time.
    #[must_use]
    pub fn active(&self) -> Millis {
        Millis(self.now.0 - self.stalled_ms.min(self.now.0)).max(self.floor)
    }

    /// When active time will be `active`, if the thread is not held up.
    #[must_use]
    pub fn time_of(&self, active: Millis) -> Millis {
        active.after(self.stalled_ms)
    }

    /// When a thread with deadlines must look at the clock again at the latest.
    #[must_use]
    pub fn awake_until(&self) -> Millis {
        self.now.after(SLEEP_MS_MAX)
    }

    /// The total time that does not count, milliseconds.
    #[must_use]
    pub fn stalled_ms(&self) -> u64 {
        self.stalled_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(gap: u64, due: Option<u64>, active: u64) {
        let mut clock = ActiveClock::new(Millis(1_000));
        clock.advance(Millis(1_000 + gap), || due.map(|due| Millis(1_000 + due)));
        assert_eq!(clock.active(), Millis(1_000 + active), "{gap} ms, due after {due:?}");
    }

    #[test]
    fn only_a_late_wake_up_is_a_stall() {
        check(0, None, 0);
        check(900, Some(900), 900);
        check(1_150, Some(900), 1_150);
        check(1_151, Some(900), TICK_MS);
        check(5_000, Some(900), TICK_MS);
        // Nothing was due, so nothing is late.
        check(5_000, None, 5_000);
    }

    #[test]
    fn a_long_turn_is_a_stall() {
        check(250, Some(0), 250);
        check(251, Some(0), TICK_MS);
    }

    /// What arrived during a stall needs a moment to be read.
    #[test]
    fn active_time_waits_after_a_stall() {
        let mut clock = ActiveClock::new(Millis(0));
        clock.advance(Millis(5_000), || Some(Millis(100)));
        for (now, active) in [(5_001, 50), (5_250, 50), (5_251, 51), (6_000, 800)] {
            clock.advance(Millis(now), || Some(Millis(now)));
            assert_eq!(clock.active(), Millis(active), "at {now}");
            assert_eq!(clock.time_of(Millis(900)), Millis(6_100));
        }
        // Another stall does not prolong that.
        clock.advance(Millis(9_000), || Some(Millis(6_000)));
        clock.advance(Millis(9_100), || Some(Millis(9_000)));
        clock.advance(Millis(9_400), || Some(Millis(9_100)));
        assert_eq!(clock.active(), Millis(900));
        clock.advance(Millis(9_650), || Some(Millis(9_650)));
        assert_eq!(clock.active(), Millis(900));
        clock.advance(Millis(9_651), || Some(Millis(9_651)));
        assert_eq!(clock.active(), Millis(901));
    }

    /// Active time continues, no matter how many stalls there are.
    #[test]
    fn active_time_goes_on() {
        let mut clock = ActiveClock::new(Millis(0));
        for stall in 1..=100 {
            let now = Millis(stall * 10_000);
            clock.advance(now, || Some(Millis(now.0 - 9_000)));
        }
        assert_eq!(clock.active(), Millis(100 * TICK_MS));
    }
}
