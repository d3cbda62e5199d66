//! Which comets take clients: all of them are asked, and some time after the last answer again.

use std::collections::VecDeque;

use comet_core::Millis;

/// A comet to be asked whether it takes clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Check {
    /// Number of the comet.
    pub comet: usize,
    /// The round of checks it belongs to.
    round: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// `missing` comets have not answered; they have until then.
    Asking {
        missing: usize,
        until: Millis,
    },
    Resting {
        until: Millis,
    },
}

#[derive(Clone, Copy, Default, Debug)]
struct Comet {
    is_serving: bool,
    is_asked: bool,
}

/// Asks all comets, round by round.
///
/// After each `handle_*`: [`poll_check`](Self::poll_check) and [`poll_change`](Self::poll_change) until
/// `None`, then [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct HealthMonitor {
    comets: Vec<Comet>,
    /// How long an answer may take and how long a round rests, milliseconds.
    interval_ms: u64,
    round: u64,
    state: State,
    checks: VecDeque<Check>,
    changes: VecDeque<(usize, bool)>,
}

impl HealthMonitor {
    /// Nobody takes clients before an answer says so. The first round is due at `now`.
    #[must_use]
    pub fn new(comets: usize, interval_ms: u64, now: Millis) -> Self {
        Self {
            comets: vec![Comet::default(); comets],
            interval_ms,
            round: 0,
            state: State::Resting { until: now },
            checks: VecDeque::new(),
            changes: VecDeque::new(),
        }
    }

    /// Whether the comet said a moment ago that it takes clients.
    #[must_use]
    pub fn is_serving(&self, comet: usize) -> bool {
        self.comets[comet].is_serving
    }

    /// The next comet to ask.
    pub fn poll_check(&mut self) -> Option<Check> {
        self.checks.pop_front()
    }

    /// The next comet that takes clients since now, or does not any more.
    pub fn poll_change(&mut self) -> Option<(usize, bool)> {
        self.changes.pop_front()
    }

    /// A comet has answered. An answer that is late is ignored.
    pub fn handle_check(&mut self, now: Millis, check: Check, is_serving: bool) {
        if check.round == self.round && std::mem::take(&mut self.comets[check.comet].is_asked) {
            self.set(now, check.comet, is_serving);
        }
    }

    /// Begins a round, or ends the one under way.
    pub fn handle_timeout(&mut self, now: Millis) {
        match self.state {
            State::Resting { until } if until <= now => {
                self.round += 1;
                let (missing, until) = (self.comets.len(), now.after(self.interval_ms));
                self.state = match missing {
                    0 => State::Resting { until },
                    _ => State::Asking { missing, until },
                };
                for (comet, entry) in self.comets.iter_mut().enumerate() {
                    entry.is_asked = true;
                    self.checks.push_back(Check { comet, round: self.round });
                }
            }
            State::Asking { until, .. } if until <= now => {
                for comet in 0..self.comets.len() {
                    if std::mem::take(&mut self.comets[comet].is_asked) {
                        self.set(now, comet, false);
                    }
                }
            }
            _ => {}
        }
    }

    /// When [`HealthMonitor::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Millis {
        match self.state {
            State::Asking { until, .. } | State::Resting { until } => until,
        }
    }

    fn set(&mut self, now: Millis, comet: usize, is_serving: bool) {
        if std::mem::replace(&mut self.comets[comet].is_serving, is_serving) != is_serving {
            self.changes.push_back((comet, is_serving));
        }
        if let State::Asking { missing, .. } = &mut self.state {
            *missing -= 1;
            if *missing == 0 {
                self.state = State::Resting { until: now.after(self.interval_ms) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(monitor: &mut HealthMonitor) -> Vec<Check> {
        std::iter::from_fn(|| monitor.poll_check()).collect()
    }

    #[test]
    fn comets_are_asked_in_rounds_and_silence_is_a_no() {
        let mut monitor = HealthMonitor::new(2, 1_000, Millis(5));
        assert_eq!(monitor.poll_timeout(), Millis(5));
        monitor.handle_timeout(Millis(5));
        let first = checks(&mut monitor);
        assert_eq!(first.iter().map(|check| check.comet).collect::<Vec<_>>(), [0, 1]);
        monitor.handle_check(Millis(100), first[0], true);
        assert_eq!(monitor.poll_change(), Some((0, true)));
        assert_eq!((monitor.is_serving(0), monitor.is_serving(1)), (true, false));
        // The round is over with the last answer, and rests.
        monitor.handle_check(Millis(200), first[1], true);
        assert_eq!(
            (monitor.poll_change(), monitor.poll_timeout()),
            (Some((1, true)), Millis(1_200))
        );
        monitor.handle_timeout(Millis(1_199));
        assert!(checks(&mut monitor).is_empty());
        monitor.handle_timeout(Millis(1_200));
        let second = checks(&mut monitor);
        monitor.handle_check(Millis(1_300), second[0], true);
        assert_eq!(monitor.poll_change(), None);
        monitor.handle_timeout(Millis(2_200));
        assert_eq!(
            (monitor.poll_change(), monitor.poll_timeout()),
            (Some((1, false)), Millis(3_200))
        );
        // Too late, and of a former round.
        for check in [second[1], first[1]] {
            monitor.handle_check(Millis(2_300), check, true);
        }
        assert!(!monitor.is_serving(1));
        // The comet is asked again, and the answer to an earlier question comes.
        monitor.handle_timeout(Millis(3_200));
        monitor.handle_check(Millis(3_300), second[1], true);
        assert!(!monitor.is_serving(1));
    }

    #[test]
    fn nobody_to_ask_is_no_haste() {
        let mut monitor = HealthMonitor::new(0, 1_000, Millis(0));
        monitor.handle_timeout(Millis(0));
        assert_eq!((monitor.poll_check(), monitor.poll_timeout()), (None, Millis(1_000)));
    }
}
