//! How the blocking face runs what it shares with the asynchronous one.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// What a future gives that only uses streams that block: it never has to be polled again.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("blocking streams are always ready"),
    }
}
