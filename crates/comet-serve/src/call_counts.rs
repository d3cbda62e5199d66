//! Counts of answered calls.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use comet_histogram::Histogram;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::access_log::AccessLogEntry;

/// How many calls were answered, by name (over HTTP the path) and gRPC code, and how long they took.
#[derive(Default, Debug)]
pub struct CallCounts(Mutex<Calls>);

#[derive(Default, Debug)]
struct Calls {
    counts: BTreeMap<(&'static str, i32), u64>,
    times: BTreeMap<&'static str, Histogram>,
}

impl CallCounts {
    /// Awaits `answer`, counts it under `rpc` and writes it to the access log. If the caller leaves first, this future
    /// is dropped, which counts as [`Code::Cancelled`].
    ///
    /// # Errors
    /// Those of `answer`.
    pub async fn of<T>(
        &self,
        rpc: &'static str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let begin = Instant::now();
        let mut awaited = Awaited { counts: self, rpc, begin, is_answered: false };
        let answer = answer.await;
        awaited.is_answered = true;
        self.count(rpc, begin.elapsed(), &answer);
        AccessLogEntry::current().answer(answer.as_ref().map(|_| ()));
        answer
    }

    /// Counts an answer, which took `time`.
    pub fn count<T>(&self, rpc: &'static str, time: Duration, answer: &Result<T, Status>) {
        self.add(rpc, time, answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
    }

    /// Counts an answer with `code`, which took `time`.
    pub fn add(&self, rpc: &'static str, time: Duration, code: Code) {
        let mut calls = self.0.lock().expect(NO_PANIC);
        *calls.counts.entry((rpc, code as i32)).or_default() += 1;
        calls.times.entry(rpc).or_default().record_time(time);
    }

    /// Name, code and count of all calls so far.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, Code, u64)> {
        let calls = self.0.lock().expect(NO_PANIC);
        calls
            .counts
            .iter()
            .map(|((rpc, code), count)| (*rpc, Code::from_i32(*code), *count))
            .collect()
    }

    /// How long the calls of each name took, from the arrival of their request to their answer.
    #[must_use]
    pub fn times(&self) -> Vec<(&'static str, Histogram)> {
        let calls = self.0.lock().expect(NO_PANIC);
        calls.times.iter().map(|(rpc, times)| (*rpc, times.clone())).collect()
    }
}

/// Counts a call as cancelled if it is dropped without an answer.
struct Awaited<'a> {
    counts: &'a CallCounts,
    rpc: &'static str,
    begin: Instant,
    is_answered: bool,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.counts.add(self.rpc, self.begin.elapsed(), Code::Cancelled);
        }
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn calls_are_counted_by_name_and_code() {
        let counts = CallCounts::default();
        counts.of("A", ready(Ok(()))).await.unwrap();
        counts.of("A", ready(Ok(()))).await.unwrap();
        counts.of("A", ready(Err::<(), _>(Status::internal("")))).await.unwrap_err();
        counts.add("B", Duration::from_secs(1), Code::Unavailable);
        let expected = [("A", Code::Ok, 2), ("A", Code::Internal, 1), ("B", Code::Unavailable, 1)];
        assert_eq!(counts.all(), expected);
        let times = counts.times();
        assert_eq!(times.len(), 2);
        assert_eq!((times[0].0, times[0].1.count()), ("A", 3));
        assert_eq!((times[1].0, times[1].1.sum()), ("B", Duration::from_secs(1)));
    }

    #[test]
    fn a_call_whose_caller_leaves_is_cancelled() {
        let counts = CallCounts::default();
        {
            let mut call = pin!(counts.of::<()>("A", pending()));
            let mut context = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(counts.all(), [("A", Code::Cancelled, 1)]);
    }
}
