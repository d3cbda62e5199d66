//! The origin of a call: the connection by which it came.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

tokio::task_local! {
    static CALLER: Caller;
}

/// One connection of a caller, as a number. Calls of one caller keep their order; callers take turns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Caller(pub u64);

impl Caller {
    /// The caller behind a new connection.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Relaxed))
    }

    /// The caller of the request that is being handled. Outside of requests this is always the same value.
    #[must_use]
    pub fn current() -> Self {
        CALLER.try_with(|caller| *caller).unwrap_or_default()
    }

    /// Makes this caller the current one while `work` runs.
    pub fn enter<T>(self, work: impl FnOnce() -> T) -> T {
        CALLER.sync_scope(self, work)
    }

    /// Makes this caller the current one while the future is polled.
    pub fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CALLER.scope(self, future)
    }
}
