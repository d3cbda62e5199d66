//! Whether a Redis server serves: the backoff after a failure, in which no call is tried, and the lines of
//! the log.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::sessions::ServerState;

/// The backoff after the first failure, in which calls fail at once. Each further failure doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest backoff.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Time without a failure after which the log says that the server serves again. Reads may succeed between
/// writes that fail.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Default)]
struct State {
    backoff: Option<Backoff>,
    /// Set since the log said that the server fails.
    failing: Option<Failing>,
    failures: u64,
}

/// A backoff after failures, so that not every call tries a server that cannot serve.
struct Backoff {
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
    /// The error that caused the backoff, while it lasts.
    pub(super) fn backoff_error(&self) -> Option<String> {
        let state = self.lock();
        let backoff = state.backoff.as_ref().filter(|backoff| Instant::now() < backoff.until)?;
        Some(backoff.sentence.clone())
    }

    /// Notes that the server did not serve a call. Begins or extends the backoff.
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
        let length = match &state.backoff {
            // Calls that fail at the same time count as one failure.
            Some(backoff) if now < backoff.until => return,
            Some(backoff) => (backoff.length * 2).min(BACKOFF_MAX),
            None => BACKOFF_MIN,
        };
        state.backoff =
            Some(Backoff { sentence: sentence.to_owned(), length, until: now + length });
    }

    /// Notes that the server served a call.
    pub(super) fn succeeded(&self, name: &str) {
        let mut state = self.lock();
        state.backoff = None;
        let is_over = |failing: &mut Failing| failing.last + QUIET <= Instant::now();
        if let Some(Failing { failures, .. }) = state.failing.take_if(is_over) {
            log::info!("the session store at {name} serves again: {failures} calls failed");
        }
    }

    pub(super) fn state(&self, name: &str) -> ServerState {
        let state = self.lock();
        ServerState {
            name: name.to_owned(),
            is_up: state.backoff.is_none(),
            failures: state.failures,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }
}
