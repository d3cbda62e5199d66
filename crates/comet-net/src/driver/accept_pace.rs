//! How many connections a core accepts in a second.

use std::time::{Duration, Instant};

/// The rate is kept over windows, at most so many a second. Within one, connections are accepted as fast as they come, so
/// a short one keeps that burst short.
const WINDOWS_A_SECOND: u32 = 100;

/// Counts accepts in windows. A storm of connects waits in the kernel's backlog, where it costs nothing, and
/// the clients that are connected get their share of the core.
pub(super) struct AcceptPace {
    window_end: Instant,
    accepted: u32,
}

impl AcceptPace {
    pub(super) fn new(now: Instant) -> Self {
        Self { window_end: now, accepted: 0 }
    }

    /// Counts an accept. Returns whether it is the last one that `rate`, accepts a second, allows in this window.
    pub(super) fn is_last(&mut self, now: Instant, rate: u32) -> bool {
        let most = (rate / WINDOWS_A_SECOND).max(1);
        if now >= self.window_end {
            self.window_end = now + Duration::from_secs(1) * most / rate;
            self.accepted = 0;
        }
        self.accepted += 1;
        self.accepted == most
    }

    /// When accepts may go on.
    pub(super) fn window_end(&self) -> Instant {
        self.window_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_has_one_last_accept() {
        let begin = Instant::now();
        for (rate, most, window_ms) in [(1, 1, 1_000), (40, 1, 25), (250, 2, 8), (1_000, 10, 10)] {
            let mut pace = AcceptPace::new(begin);
            let window = Duration::from_millis(window_ms);
            for number in 0..3 {
                let now = begin + number * window;
                let last = (1..=2 * most).filter(|_| pace.is_last(now, rate)).count();
                assert_eq!((last, pace.window_end()), (1, now + window), "{rate} a second");
                assert_eq!(pace.accepted, 2 * most);
            }
        }
    }
}
