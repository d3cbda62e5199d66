//! How the blocking client runs the code that it shares with the asynchronous one.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The output of a future that only uses blocking streams, so it is ready at the first poll.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("blocking streams are always ready"),
    }
}
