//! The clock of the fan-out: active time, so that a process that was stopped does not consider a comet late.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use comet_hub::{ActiveClock, Millis};

/// Converts the time of this thread into active time. The thread must call [`ActiveTime::sleep_until`] repeatedly: a
/// stall shows as a wake-up later than the time that this returned.
pub(crate) struct ActiveTime {
    epoch: Instant,
    state: Mutex<State>,
}

struct State {
    clock: ActiveClock,
    /// The time at which the thread will wake.
    wakes_at: Millis,
}

impl ActiveTime {
    /// A clock whose active time begins at zero.
    pub(crate) fn new() -> Self {
        let state = State { clock: ActiveClock::new(Millis(0)), wakes_at: Millis(0) };
        Self { epoch: Instant::now(), state: Mutex::new(state) }
    }

    /// The active time, rounded down.
    pub(crate) fn now(&self) -> Millis {
        self.with(|state| state.clock.active())
    }

    /// When active time reaches `due`, if nothing holds the thread up.
    pub(crate) fn instant(&self, due: Millis) -> Instant {
        self.with(|state| self.epoch + Duration::from_millis(state.clock.time_of(due).0))
    }

    /// When the thread must check the clock again, for something due at an active time.
    pub(crate) fn sleep_until(&self, due: Millis) -> Instant {
        self.with(|state| {
            state.wakes_at = state.clock.time_of(due).min(state.clock.awake_until());
            self.epoch + Duration::from_millis(state.wakes_at.0)
        })
    }

    fn with<T>(&self, then: impl FnOnce(&mut State) -> T) -> T {
        let now = Millis(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX));
        let mut state = self.state.lock().expect("nothing panics between lock and unlock");
        let wakes_at = state.wakes_at;
        state.clock.advance(now, || Some(wakes_at));
        then(&mut state)
    }
}
