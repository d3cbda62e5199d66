//! Whether a Redis server serves: the pause after a failure, in which no call is tried, and the lines of
//! the log.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::sessions::ServerState;

/// The pause after the first failure, in which calls fail at once. Each further failure doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Time without a failure after which the log says that the server serves again. Reads may succeed between
/// writes that fail.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Default)]
struct State {
    pause: Option<Pause>,
    /// Set since the log said that the server fails.
    failing: Option<Failing>,
    failures: u64,
}

/// A pause after failures, so that not every call tries a server that cannot serve.
struct Pause {
    /// The last failure.
    sentence: String,
    length: Duration,
    until: Instant,
}

struct Failing {
    failures: u64,
    last: Instant,
}

impl Health {
    /// The error that caused the pause, while it lasts.
    pub(super) fn failure_of_pause(&self) -> Option<String> {
        let state = self.lock();
        let pause = state.pause.as_ref().filter(|pause| Instant::now() < pause.until)?;
        Some(pause.sentence.clone())
    }

    /// Notes that the server did not serve a call. Begins or extends the pause.
    pub(super) fn failed(&self, name: &str, sentence: &str) {
        let mut state = self.lock();
        let now = Instant::now();
        state.failures += 1;
        let failing = state.failing.get_or_insert_with(|| {
            log::warn!("the session store at {name} does not serve: {sentence:?}");
            Failing { failures: 0, last: now }
        });
        failing.failures += 1;
        failing.last = now;
        let length = match &state.pause {
            // Calls that fail at the same time count as one failure.
            Some(pause) if now < pause.until => return,
            Some(pause) => (pause.length * 2).min(PAUSE_MAX),
            None => PAUSE_MIN,
        };
        state.pause = Some(Pause { sentence: sentence.to_owned(), length, until: now + length });
    }

    /// Notes that the server served a call.
    pub(super) fn succeeded(&self, name: &str) {
        let mut state = self.lock();
        state.pause = None;
        let is_over = |failing: &mut Failing| failing.last + QUIET <= Instant::now();
        if let Some(Failing { failures, .. }) = state.failing.take_if(is_over) {
            log::info!("the session store at {name} serves again: {failures} calls failed");
        }
    }

    pub(super) fn state(&self, name: &str) -> ServerState {
        let state = self.lock();
        ServerState {
            name: name.to_owned(),
            is_up: state.pause.is_none(),
            failures: state.failures,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }
}
