//! Deadlines that do not count the time for which the process was stopped or its thread held up. Input that arrived
//! meanwhile is read before a deadline expires.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::select;
use tokio::time::{self, sleep};

/// A deadline sleeps in parts of this length. A part that ends late shows a stall.
const PART: Duration = Duration::from_millis(500);

/// How late a part may end.
const STALL: Duration = Duration::from_millis(250);

/// The part after a stall lasts at least this long: time to read the input that has arrived.
const AFTER_STALL: Duration = Duration::from_millis(250);

/// The time counted for a part that ended too late, so that deadlines expire even in a thread that is always late.
const TICK: Duration = Duration::from_millis(50);

/// Waits for `limit` of active time, at least.
pub(crate) async fn sleep_active(limit: Duration) {
    let mut left = limit;
    while !left.is_zero() {
        let part = left.min(PART);
        let begin = time::Instant::now();
        sleep(part).await;
        left = match begin.elapsed() > part + STALL {
            true => left.saturating_sub(TICK).max(AFTER_STALL.min(limit)),
            false => left - part,
        };
    }
}

/// The output of `work`, if it is ready within `limit` of active time.
pub(crate) async fn timeout_active<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    select! {
        biased;
        done = work => Some(done),
        () = sleep_active(limit) => None,
    }
}

/// A timer of HTTP's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActiveTimer;

impl Timer for ActiveTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(ActiveSleep(Box::pin(sleep_active(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> Instant {
        time::Instant::now().into_std()
    }
}

struct ActiveSleep(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Sleep for ActiveSleep {}

impl Future for ActiveSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::task::yield_now;
    use tokio::time::advance;

    use super::*;

    async fn active_time_of(limit: Duration, stalls: &[u64]) -> Duration {
        let begin = time::Instant::now();
        let mut asleep = pin!(sleep_active(limit));
        for stall in stalls {
            select! {
                biased;
                () = &mut asleep => unreachable!("the stall comes first"),
                () = yield_now() => advance(Duration::from_secs(*stall)).await,
            }
        }
        asleep.await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_no_part_of_a_deadline() {
        let second = Duration::from_secs(1);
        assert_eq!(active_time_of(second, &[]).await, second);
        // The remaining time is that from before the stalls, less a tick for each.
        assert_eq!(active_time_of(second, &[60]).await, 61 * second - TICK);
        assert_eq!(active_time_of(second, &[60, 60]).await, 121 * second - 2 * TICK);
        let short = Duration::from_millis(100);
        assert_eq!(active_time_of(short, &[60]).await, 60 * second + short);
    }

    /// A thread that is held up again and again.
    #[tokio::test(start_paused = true)]
    async fn deadlines_come_to_an_end() {
        let held_up = active_time_of(Duration::from_secs(1), &[1; 14]).await;
        assert_eq!(held_up, Duration::from_secs(14) + Duration::from_millis(300));
    }
}
