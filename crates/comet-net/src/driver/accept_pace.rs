//! How many connections a core accepts in a second.

use std::time::{Duration, Instant};

/// The rate is kept over windows of this length.
const WINDOW: Duration = Duration::from_millis(100);

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
        if now >= self.window_end {
            self.window_end = now + WINDOW;
            self.accepted = 0;
        }
        self.accepted += 1;
        let windows = (Duration::from_secs(1).as_millis() / WINDOW.as_millis()) as u32;
        self.accepted == rate.div_ceil(windows)
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
        let mut pace = AcceptPace::new(begin);
        let last = |pace: &mut AcceptPace, at| pace.is_last(begin + Duration::from_millis(at), 30);
        for window in 0..3 {
            let accepts: Vec<_> = (0..6).map(|at| last(&mut pace, window * 100 + at)).collect();
            assert_eq!(accepts, [false, false, true, false, false, false]);
            assert_eq!(pace.window_end(), begin + (window as u32 + 1) * WINDOW);
        }
        assert!(pace.is_last(begin + 4 * WINDOW, 1), "at least one a window");
    }
}
