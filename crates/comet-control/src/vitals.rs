//! Whether the cores live: health, and the watchdog of the service manager, by the same sign.
//!
//! A core that sleeps is woken for a turn each second. The task runs on the control thread, so its silence is the
//! sign that control itself hangs: then health does not answer, and the service manager is told nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_mesh::Pulse;
use comet_ops::{Notice, ServiceManager};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often each core has to take a turn.
const PERIOD: Duration = Duration::from_secs(1);

/// A core without a turn for this long is not healthy.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A core without a turn for this long is a reason to be silent towards a service manager that is told twice in the
/// time it waits, every `period`. A core that sleeps is woken at the first look after a [`PERIOD`], so three of them are
/// the least.
fn watchdog_silence_max(period: Duration) -> Duration {
    period.clamp(3 * PERIOD, SILENCE_MAX)
}

/// The signs of life of all cores.
#[derive(Debug)]
pub(crate) struct Vitals {
    cores: Vec<Arc<Pulse>>,
    /// The zero of the cores' clock.
    epoch: Instant,
}

impl Vitals {
    pub(crate) fn new(cores: Vec<Arc<Pulse>>, epoch: Instant) -> Self {
        Self { cores, epoch }
    }

    /// The time since the latest turn of each core.
    pub(crate) fn ages(&self) -> Vec<Duration> {
        let now = self.now_ms();
        self.cores.iter().map(|core| core.age(now)).collect()
    }

    /// Keeps `trouble` in step with the cores, and the service manager informed while there is none.
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
                && self.ages().iter().all(|age| *age < watchdog_silence_max(period))
            {
                manager.notify(Notice::Alive);
            }
        }
    }

    /// Puts what is wrong with the cores now into `trouble`.
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

    /// A sentence about the cores that are silent, if there are any. Wakes those that sleep.
    fn silent(&self) -> Option<String> {
        let now = self.now_ms();
        let ages = self.cores.iter().map(|core| core.check(now, PERIOD));
        let silent = ages.enumerate().filter(|(_, age)| *age >= SILENCE_MAX);
        let names: Vec<_> = silent.map(|(core, _)| format!("core {core}")).collect();
        let have = if names.len() == 1 { "has" } else { "have" };
        (!names.is_empty())
            .then(|| format!("{} {have} not answered for {SILENCE_MAX:?}", names.join(", ")))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).expect("no process runs that long")
    }
}
