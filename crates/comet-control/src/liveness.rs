//! Whether the cores are alive: the basis of health and of the service manager's watchdog.
//!
//! A core that sleeps is woken for a turn each second. This task runs on the control thread. If control itself hangs,
//! this task is silent: health does not answer, and the service manager is not notified.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use comet_mesh::Pulse;
use comet_ops::{Notice, ServiceManager};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often each core has to take a turn.
const PERIOD: Duration = Duration::from_secs(1);

/// A core without a turn for this long is not healthy.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// If a core has had no turn for this long, the service manager is not notified. It is notified twice within the time
/// it waits, every `period`. A sleeping core is woken at the first check after a [`PERIOD`], so three periods are the
/// minimum.
fn watchdog_silence_max(period: Duration) -> Duration {
    period.clamp(3 * PERIOD, SILENCE_MAX)
}

/// The signs of life of all cores.
#[derive(Debug)]
pub(crate) struct CoreLiveness {
    cores: Vec<Arc<Pulse>>,
    /// The zero of the cores' clock.
    epoch: Instant,
    /// Until this time the check of the cores is suspended, milliseconds of their clock.
    suspended_until_ms: AtomicU64,
}

impl CoreLiveness {
    pub(crate) fn new(cores: Vec<Arc<Pulse>>, epoch: Instant) -> Self {
        Self { cores, epoch, suspended_until_ms: AtomicU64::new(0) }
    }

    /// The time since the latest turn of each core.
    pub(crate) fn ages(&self) -> Vec<Duration> {
        let now = self.now_ms();
        self.cores.iter().map(|core| core.age(now)).collect()
    }

    /// Suspends the check of the cores for `time`: they are frozen, and the freeze has a bound of its own.
    pub(crate) fn suspend(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.suspended_until_ms.store(self.now_ms().saturating_add(time), Relaxed);
    }

    /// Ends the suspension, because the cores take turns again.
    pub(crate) fn resume(&self) {
        self.suspended_until_ms.store(0, Relaxed);
    }

    fn is_suspended(&self) -> bool {
        self.now_ms() < self.suspended_until_ms.load(Relaxed)
    }

    /// Whether a service manager that is notified every `period` should be told that the process lives.
    fn is_alive(&self, period: Duration) -> bool {
        let silence_max = watchdog_silence_max(period);
        self.is_suspended() || self.ages().iter().all(|age| *age < silence_max)
    }

    /// Keeps `trouble` up to date with the cores, and notifies the service manager while there is no trouble.
    pub(crate) async fn watch(
        self: Arc<Self>,
        trouble: watch::Sender<Option<String>>,
    ) -> Infallible {
        let manager = ServiceManager::from_environment();
        let watchdog =
            manager.watchdog().map(|timeout| (timeout / 2).max(Duration::from_millis(1)));
        let mut ticks = interval(watchdog.unwrap_or(PERIOD).min(PERIOD));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(&trouble);
            if let Some(period) = watchdog
                && self.is_alive(period)
            {
                manager.notify(Notice::Alive);
            }
        }
    }

    /// Stores in `trouble` what is wrong with the cores.
    pub(crate) fn look(&self, trouble: &watch::Sender<Option<String>>) {
        let silent = self.silent();
        trouble.send_if_modified(|trouble| {
            let has_changed = *trouble != silent;
            if has_changed {
                match &silent {
                    Some(sentence) => log::error!("{sentence}: health says so"),
                    None => log::info!("all cores answer again"),
                }
                *trouble = silent;
            }
            has_changed
        });
    }

    /// A sentence about the silent cores, if there are any. Wakes those that sleep.
    fn silent(&self) -> Option<String> {
        let now = self.now_ms();
        let ages = self.cores.iter().map(|core| core.check(now, PERIOD));
        let silent = ages.enumerate().filter(|(_, age)| *age >= SILENCE_MAX);
        let names: Vec<_> = silent.map(|(core, _)| format!("core {core}")).collect();
        let have = if names.len() == 1 { "has" } else { "have" };
        (!names.is_empty() && !self.is_suspended())
            .then(|| format!("{} {have} not answered for {SILENCE_MAX:?}", names.join(", ")))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).expect("no process runs that long")
    }
}

#[cfg(test)]
mod tests {
    use comet_mesh::Wake;

    use super::*;

    struct Asleep;

    impl Wake for Asleep {
        fn wake(&self) {}
    }

    /// A frozen core may be silent for longer than a watchdog waits, but not longer than the freeze may take.
    #[test]
    fn frozen_cores_are_not_checked_for_the_bound_of_the_freeze() {
        let epoch =
            Instant::now().checked_sub(6 * SILENCE_MAX).expect("the host is up for a minute");
        let liveness = CoreLiveness::new(vec![Arc::new(Pulse::new(Arc::new(Asleep), 0))], epoch);
        let is_well = || (liveness.is_alive(PERIOD), liveness.silent().is_none());
        assert_eq!(is_well(), (false, false));
        liveness.suspend(SILENCE_MAX);
        assert_eq!(is_well(), (true, true));
        liveness.resume();
        assert_eq!(is_well(), (false, false));
        liveness.suspend(Duration::ZERO);
        assert_eq!(is_well(), (false, false), "the bound is over");
    }
}
