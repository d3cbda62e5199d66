//! Which comets are reachable and take clients. Each is asked separately, and again some time after its answer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use comet_core::Millis;

use super::number::CometNumber;

/// A comet that must be asked whether it takes clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Check {
    /// The comet.
    pub comet: CometNumber,
    /// How often the comet was asked before.
    number: u64,
}

/// The known state of a comet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// It was not asked yet, or has not answered the first time. It gets pushes.
    Unknown,
    /// It takes clients.
    Serving,
    /// It takes no new clients, but still has some: it drains. It gets pushes.
    NotServing,
    /// It does not answer, for this reason. No push waits for it.
    Gone(Box<str>),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// It has to answer by `until`.
    Asked { until: Millis },
    /// It is asked at `until`.
    Resting { until: Millis },
}

#[derive(Debug)]
struct Comet {
    health: Health,
    state: State,
    /// The number of the last check.
    number: u64,
}

/// The times of checks.
#[derive(Clone, Copy, Debug)]
pub struct HealthTimes {
    /// From an answer to the next question, milliseconds.
    pub rest_ms: u64,
    /// How long an answer may take, milliseconds.
    pub limit_ms: u64,
}

/// Checks all comets, each at its own pace.
///
/// After each `handle_*`: [`poll_check`](Self::poll_check) and [`poll_change`](Self::poll_change) until
/// `None`, then [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct HealthMonitor {
    comets: BTreeMap<CometNumber, Comet>,
    times: HealthTimes,
    checks: VecDeque<Check>,
    changes: VecDeque<(CometNumber, Health)>,
}

impl HealthMonitor {
    /// Has no comets at first.
    #[must_use]
    pub fn new(times: HealthTimes) -> Self {
        let (checks, changes) = (VecDeque::new(), VecDeque::new());
        Self { comets: BTreeMap::new(), times, checks, changes }
    }

    /// Adds a comet, which is asked for the first time at `now`.
    pub fn add_comet(&mut self, now: Millis, comet: CometNumber) {
        let state = State::Resting { until: now };
        self.comets.insert(comet, Comet { health: Health::Unknown, state, number: 0 });
    }

    /// Removes a comet, which is no longer asked.
    pub fn remove_comet(&mut self, comet: CometNumber) {
        self.comets.remove(&comet);
        self.checks.retain(|check| check.comet != comet);
        self.changes.retain(|(changed, _)| *changed != comet);
    }

    /// The health of the comet; [`Health::Unknown`] if the monitor does not have it.
    #[must_use]
    pub fn health(&self, comet: CometNumber) -> &Health {
        self.comets.get(&comet).map_or(&Health::Unknown, |comet| &comet.health)
    }

    /// The next comet to ask.
    pub fn poll_check(&mut self) -> Option<Check> {
        self.checks.pop_front()
    }

    /// The next comet whose health has changed, with its new health.
    pub fn poll_change(&mut self) -> Option<(CometNumber, Health)> {
        self.changes.pop_front()
    }

    /// Takes the result of a check. A late one, or one of a removed comet, is ignored.
    pub fn handle_check(&mut self, now: Millis, check: Check, health: Health) {
        let Some(comet) = self.comets.get_mut(&check.comet) else { return };
        if check.number == comet.number && matches!(comet.state, State::Asked { .. }) {
            self.changes.extend(comet.set(now, &self.times, health).map(|now| (check.comet, now)));
        }
    }

    /// Asks the comets whose rest is over, and gives up waiting for those that are late.
    pub fn handle_timeout(&mut self, now: Millis) {
        for (number, comet) in &mut self.comets {
            match comet.state {
                State::Resting { until } if until <= now => {
                    comet.number += 1;
                    comet.state = State::Asked { until: now.after(self.times.limit_ms) };
                    self.checks.push_back(Check { comet: *number, number: comet.number });
                }
                State::Asked { until } if until <= now => {
                    let limit = Duration::from_millis(self.times.limit_ms);
                    let cause = format!("no answer within {limit:?}");
                    let change = comet.set(now, &self.times, Health::Gone(cause.into()));
                    self.changes.extend(change.map(|now| (*number, now)));
                }
                _ => {}
            }
        }
    }

    /// When [`HealthMonitor::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let due = |comet: &Comet| match comet.state {
            State::Asked { until } | State::Resting { until } => until,
        };
        self.comets.values().map(due).min()
    }
}

impl Comet {
    /// Returns the health if it has changed.
    fn set(&mut self, now: Millis, times: &HealthTimes, health: Health) -> Option<Health> {
        self.state = State::Resting { until: now.after(times.rest_ms) };
        let is_change = match (&self.health, &health) {
            // The reason for the missing answer may differ each time.
            (Health::Gone(_), Health::Gone(_)) => false,
            (before, now) => before != now,
        };
        self.health = health;
        is_change.then(|| self.health.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: HealthTimes = HealthTimes { rest_ms: 1_000, limit_ms: 400 };

    fn checks(monitor: &mut HealthMonitor) -> Vec<Check> {
        std::iter::from_fn(|| monitor.poll_check()).collect()
    }

    #[test]
    fn a_silent_comet_is_gone_and_delays_no_other() {
        let mut monitor = HealthMonitor::new(TIMES);
        let comets = [CometNumber(0), CometNumber(7)];
        comets.iter().for_each(|comet| monitor.add_comet(Millis(5), *comet));
        assert_eq!(monitor.poll_timeout(), Some(Millis(5)));
        monitor.handle_timeout(Millis(5));
        let first = checks(&mut monitor);
        assert_eq!(first.iter().map(|check| check.comet).collect::<Vec<_>>(), comets);
        monitor.handle_check(Millis(100), first[0], Health::Serving);
        assert_eq!(monitor.poll_change(), Some((comets[0], Health::Serving)));
        assert_eq!(*monitor.health(comets[1]), Health::Unknown);
        // The other one does not answer.
        assert_eq!(monitor.poll_timeout(), Some(Millis(405)));
        monitor.handle_timeout(Millis(405));
        let gone = Health::Gone("no answer within 400ms".into());
        assert_eq!(monitor.poll_change(), Some((comets[1], gone)));
        // This answer is too late.
        monitor.handle_check(Millis(410), first[1], Health::Serving);
        assert_eq!((monitor.poll_change(), monitor.poll_timeout()), (None, Some(Millis(1_100))));
        monitor.handle_timeout(Millis(1_100));
        let again = checks(&mut monitor)[0];
        assert_eq!(again.comet, comets[0]);
        monitor.handle_check(Millis(1_110), again, Health::Serving);
        // The comet is asked again, and the answer to an earlier question arrives.
        monitor.handle_timeout(Millis(1_405));
        let second = checks(&mut monitor)[0];
        monitor.handle_check(Millis(1_410), first[1], Health::Serving);
        assert_eq!(monitor.poll_change(), None);
        // The comet is gone for another reason: no change is reported.
        monitor.handle_check(Millis(1_410), second, Health::Gone("refused".into()));
        assert_eq!(monitor.poll_change(), None);
        monitor.handle_timeout(Millis(2_410));
        let third = *checks(&mut monitor).iter().find(|check| check.comet == comets[1]).unwrap();
        monitor.handle_check(Millis(2_420), third, Health::NotServing);
        assert_eq!(monitor.poll_change(), Some((comets[1], Health::NotServing)));
    }

    #[test]
    fn without_comets_no_health_check_is_scheduled() {
        let mut monitor = HealthMonitor::new(TIMES);
        monitor.handle_timeout(Millis(0));
        assert_eq!((monitor.poll_check(), monitor.poll_timeout()), (None, None));
    }

    #[test]
    fn a_comet_that_is_taken_out_is_not_asked() {
        let mut monitor = HealthMonitor::new(TIMES);
        let [first, second] = [CometNumber(0), CometNumber(1)];
        monitor.add_comet(Millis(0), first);
        monitor.handle_timeout(Millis(0));
        let asked = checks(&mut monitor)[0];
        // The other one comes, and stays.
        monitor.add_comet(Millis(10), second);
        monitor.handle_timeout(Millis(10));
        monitor.remove_comet(first);
        monitor.handle_check(Millis(20), asked, Health::Serving);
        assert_eq!(*monitor.health(first), Health::Unknown);
        let asked = checks(&mut monitor)[0];
        monitor.handle_check(Millis(20), asked, Health::Serving);
        assert_eq!(monitor.poll_change(), Some((second, Health::Serving)));
        assert_eq!((monitor.poll_change(), monitor.poll_timeout()), (None, Some(Millis(1_020))));
    }
}
