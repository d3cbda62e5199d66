//! How many connections a core accepts in a second.

use std::time::{Duration, Instant};

/// The rate is kept over windows of time. Within a window, connections are accepted as fast as they come, so short
/// windows keep that burst short.
const WINDOWS_A_SECOND: u32 = 100;

/// Most single accepts of a listener that are in flight. A turn lasts at most some 5 ms, so this limits no rate below
/// 12,000 a second.
const SINGLE_MAX: u32 = 64;

/// Counts accepts per window. A storm of connects waits in the kernel's backlog, where it costs nothing, and connected
/// clients get their share of the core.
pub(super) struct AcceptRateLimiter {
    window_end: Instant,
    accepted: u32,
}

/// The accepts that one listener may have in flight while a rate is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Quota {
    /// Its share of the rest of the current window.
    now: u32,
    /// Its share of a whole window.
    most: u32,
}

impl AcceptRateLimiter {
    pub(super) fn new(now: Instant) -> Self {
        Self { window_end: now, accepted: 0 }
    }

    /// Counts an accept. Returns whether it is the last that `rate` (accepts a second) allows in this window.
    pub(super) fn count(&mut self, now: Instant, rate: u32) -> bool {
        let most = self.begin_window(now, rate);
        self.accepted += 1;
        self.accepted == most
    }

    /// The accepts that each of `listeners` may have in flight; `None`: no more until the window ends. An idle
    /// listener's accepts in flight do not reduce the shares of the others, so the listeners together may exceed a
    /// window. The next window allows that many fewer.
    pub(super) fn quota(&mut self, now: Instant, rate: u32, listeners: usize) -> Option<Quota> {
        let most = self.begin_window(now, rate);
        let left = most.saturating_sub(self.accepted);
        let listeners = u32::try_from(listeners).unwrap_or(u32::MAX);
        let share = |accepts: u32| accepts.div_ceil(listeners).min(SINGLE_MAX);
        (left > 0).then(|| Quota { now: share(left), most: share(most) })
    }

    /// Begins a new window if it is time. Returns how many accepts a window has.
    fn begin_window(&mut self, now: Instant, rate: u32) -> u32 {
        let most = (rate / WINDOWS_A_SECOND).max(1);
        if now >= self.window_end {
            let window = Duration::from_secs(1) * most / rate;
            let is_next = now - self.window_end < window;
            self.accepted = if is_next { self.accepted.saturating_sub(most) } else { 0 };
            self.window_end = now + window;
        }
        most
    }
}

/// The accepts of a listener that are in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Armed {
    /// One accept that takes the whole backlog and all later connections. It keeps to no rate.
    Multishot,
    /// This many accepts that take one connection each.
    Single(u32),
}

/// The step that brings a listener's accepts to its quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ArmStep {
    None,
    Multishot,
    Single(u32),
    /// The setting has changed. Connections that the kernel has taken already are accepted.
    Cancel,
}

impl Armed {
    pub(super) const NONE: Self = Self::Single(0);

    /// The next step; `quota` is `None` if no rate is set.
    pub(super) fn next_step(self, quota: Option<Quota>) -> ArmStep {
        match (self, quota) {
            (Self::NONE, None) => ArmStep::Multishot,
            // Single accepts end by themselves.
            (_, None) => ArmStep::None,
            (Self::Multishot, Some(_)) => ArmStep::Cancel,
            (Self::Single(armed), Some(quota)) if armed > quota.most => ArmStep::Cancel,
            (Self::Single(armed), Some(quota)) => match quota.now.saturating_sub(armed) {
                0 => ArmStep::None,
                more => ArmStep::Single(more),
            },
        }
    }

    pub(super) fn arm(&mut self, more: u32) {
        match self {
            Self::Multishot => debug_assert!(false, "it is cancelled first"),
            Self::Single(armed) => *armed += more,
        }
    }

    /// One accept has ended.
    pub(super) fn end(&mut self) {
        *self = match *self {
            Self::Multishot => Self::NONE,
            Self::Single(armed) => Self::Single(armed - 1),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A listener with a backlog that never ends, and its accepts.
    struct Flooded(Armed);

    impl Flooded {
        /// Submits what the quota allows, and accepts that many connections.
        fn turn(
            &mut self,
            limiter: &mut AcceptRateLimiter,
            now: Instant,
            rate: u32,
            listeners: usize,
        ) -> u32 {
            let Some(quota) = limiter.quota(now, rate, listeners) else { return 0 };
            let ArmStep::Single(more) = self.0.next_step(Some(quota)) else { return 0 };
            self.0.arm(more);
            for _ in 0..more {
                self.0.end();
                limiter.count(now, rate);
            }
            more
        }
    }

    const RATES: [(u32, u32, u64); 5] =
        [(1, 1, 1_000), (40, 1, 25), (250, 2, 8), (1_000, 10, 10), (50_000, 500, 10)];

    #[test]
    fn a_window_accepts_no_more_than_its_part_of_the_rate() {
        let begin = Instant::now();
        for (rate, most, window_ms) in RATES {
            for listeners in [1, 2, 5] {
                let mut limiter = AcceptRateLimiter::new(begin);
                let mut flooded: Vec<_> = (0..listeners).map(|_| Flooded(Armed::NONE)).collect();
                for window in 0..3 {
                    let now = begin + window * Duration::from_millis(window_ms);
                    let mut accepted = 0;
                    for _ in 0..64 {
                        for listener in &mut flooded {
                            accepted += listener.turn(&mut limiter, now, rate, listeners);
                        }
                    }
                    assert_eq!(accepted, most, "{rate} a second, {listeners} listeners");
                }
            }
        }
    }

    #[test]
    fn accepts_beyond_a_window_are_subtracted_from_the_next_windows() {
        let begin = Instant::now();
        for (rate, most, window_ms) in RATES {
            let window = Duration::from_millis(window_ms);
            let mut limiter = AcceptRateLimiter::new(begin);
            for _ in 0..3 * most {
                limiter.count(begin, rate);
            }
            for number in 0..3 {
                assert_eq!(limiter.quota(begin + number * window, rate, 1), None);
            }
            assert!(limiter.quota(begin + 3 * window, rate, 1).is_some());
        }
    }

    #[test]
    fn each_window_has_one_last_accept() {
        let begin = Instant::now();
        for (rate, most, window_ms) in RATES {
            let mut limiter = AcceptRateLimiter::new(begin);
            for number in 0..3 {
                let now = begin + number * Duration::from_millis(window_ms);
                let last = (0..most).filter(|_| limiter.count(now, rate)).count();
                assert_eq!(last, 1, "{rate} a second");
            }
        }
    }

    #[test]
    fn a_changed_rate_changes_the_armed_accepts() {
        let quota = Some(Quota { now: 3, most: 4 });
        for (armed, quota, step) in [
            (Armed::NONE, None, ArmStep::Multishot),
            (Armed::Multishot, None, ArmStep::None),
            (Armed::Multishot, quota, ArmStep::Cancel),
            (Armed::NONE, quota, ArmStep::Single(3)),
            (Armed::Single(3), quota, ArmStep::None),
            (Armed::Single(4), quota, ArmStep::None),
            (Armed::Single(5), quota, ArmStep::Cancel),
            (Armed::Single(1), None, ArmStep::None),
        ] {
            assert_eq!(armed.next_step(quota), step, "{armed:?}");
        }
    }
}
