//! The deadline of a call. It does not expire before input that arrived in time was read.

use std::time::Duration;

use tokio::select;
use tokio::time::{Instant, sleep, sleep_until};

/// Time for reading the input that has arrived.
const AFTER_STALL: Duration = Duration::from_millis(250);

/// How late a wake-up may be. A later one is a stall: the process was stopped, or its thread held up.
const LATE: Duration = Duration::from_millis(50);

/// Stalls in a row that are forgiven. So deadlines expire even in a thread that is always late.
const STALLS_MAX: u32 = 8;

/// The output of `work`, if it is ready by `deadline`. After a stall it gets some more time.
pub(super) async fn by<F: Future>(deadline: Instant, work: F) -> Option<F::Output> {
    select! {
        biased;
        done = work => Some(done),
        () = over(deadline) => None,
    }
}

async fn over(mut deadline: Instant) {
    for _ in 0..STALLS_MAX {
        sleep_until(deadline).await;
        if deadline.elapsed() <= LATE {
            let begin = Instant::now();
            // A stall may have ended at this very moment.
            sleep(LATE).await;
            if begin.elapsed() <= 2 * LATE {
                return;
            }
        }
        deadline = Instant::now() + AFTER_STALL;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use tokio::task::yield_now;
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_deadline_without_a_stall_is_kept() {
        let begin = Instant::now();
        assert_eq!(by(begin + SECOND, pending::<()>()).await, None);
        assert_eq!(begin.elapsed(), SECOND + LATE);
    }

    /// Timers fire before sockets are read, so an answer that arrived meanwhile is seen a moment later.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_arrived_in_a_stall_counts() {
        let begin = Instant::now();
        let answer = async {
            sleep(5 * SECOND + AFTER_STALL / 2).await;
            "answer"
        };
        let mut call = pin!(by(begin + SECOND, answer));
        select! {
            biased;
            _ = &mut call => unreachable!("the stall comes first"),
            () = yield_now() => advance(5 * SECOND).await,
        }
        assert_eq!(call.await, Some("answer"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_is_always_late_has_a_deadline() {
        let begin = Instant::now();
        let mut call = pin!(by(begin + SECOND, pending::<()>()));
        let mut stalls = 0;
        loop {
            select! {
                biased;
                done = &mut call => break assert_eq!(done, None),
                () = yield_now() => advance(SECOND * 2).await,
            }
            stalls += 1;
        }
        assert!(stalls <= STALLS_MAX + 1, "{stalls}");
    }
}
