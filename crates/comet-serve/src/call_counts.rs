//! Counts of answered calls.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tonic::{Code, Status};

/// How many calls were answered, by name (over HTTP the path) and gRPC code.
#[derive(Default, Debug)]
pub struct CallCounts(Mutex<BTreeMap<(&'static str, i32), u64>>);

impl CallCounts {
    /// Awaits `answer` and counts it under `rpc`. A caller that leaves before drops this future, which
    /// counts as [`Code::Cancelled`].
    ///
    /// # Errors
    /// Those of `answer`.
    pub async fn of<T>(
        &self,
        rpc: &'static str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut awaited = Awaited { counts: self, rpc, is_answered: false };
        let answer = answer.await;
        awaited.is_answered = true;
        self.count(rpc, &answer);
        answer
    }

    /// Counts an answer.
    pub fn count<T>(&self, rpc: &'static str, answer: &Result<T, Status>) {
        self.add(rpc, answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
    }

    /// Counts an answer with `code`.
    pub fn add(&self, rpc: &'static str, code: Code) {
        *self.0.lock().expect(NO_PANIC).entry((rpc, code as i32)).or_default() += 1;
    }

    /// Name, code and count of all calls so far.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, Code, u64)> {
        let counts = self.0.lock().expect(NO_PANIC);
        counts.iter().map(|((rpc, code), count)| (*rpc, Code::from_i32(*code), *count)).collect()
    }
}

/// Counts a call as cancelled if it is dropped without an answer.
struct Awaited<'a> {
    counts: &'a CallCounts,
    rpc: &'static str,
    is_answered: bool,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.counts.add(self.rpc, Code::Cancelled);
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
        counts.add("B", Code::Unavailable);
        let expected = [("A", Code::Ok, 2), ("A", Code::Internal, 1), ("B", Code::Unavailable, 1)];
        assert_eq!(counts.all(), expected);
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
