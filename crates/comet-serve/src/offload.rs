//! Long work beside the serving thread: a list of a million rooms is made, encoded, decoded and freed here, while other
//! calls proceed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http_body::Frame;
use tokio::runtime::Handle;
use tokio::select;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tonic::codegen::Bytes;

/// Does `work` on a thread of its own, on the CPUs of the serving thread. The work must end by itself: the runtime
/// waits only a moment for it, and 512 calls that do not end leave no thread for others.
///
/// # Panics
/// If `work` panics, or when called outside of a runtime.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.expect("the work does not panic, and nothing cancels it")
}

/// Frees `value` on a thread of its own.
///
/// # Panics
/// Outside of a runtime.
pub fn drop_offloaded(value: impl Send + 'static) {
    spawn_blocking(move || drop(value));
}

/// Polls `work` on a thread of its own. It is dropped there too: when it is ready, or when nobody waits for it any
/// more.
///
/// # Panics
/// As [`offload`].
pub async fn poll_offloaded<F>(work: F) -> F::Output
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let (_waiting, left) = oneshot::channel::<Infallible>();
    let runtime = Handle::current();
    let done = offload(move || {
        runtime.block_on(async {
            let work = pin!(work);
            select! {
                // This comes first: a runtime that ends drops whoever waits, and takes no timers any more.
                biased;
                _ = left => None,
                done = work => Some(done),
            }
        })
    });
    done.await.expect("somebody waits for it")
}

/// A body as its frames. Collecting them encodes the messages of the body.
pub(crate) struct Frames<E>(VecDeque<Result<Frame<Bytes>, E>>);

impl<E> Frames<E> {
    pub(crate) async fn of<B>(mut body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = E> + Unpin,
    {
        let mut frames = VecDeque::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            frames.push_back(frame);
        }
        Self(frames)
    }
}

impl<E: Unpin> http_body::Body for Frames<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        Poll::Ready(self.0.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::thread;

    use http_body::Body as _;
    use tonic::codegen::StdError;

    use super::*;

    /// Notes where it is polled.
    struct Polled(Option<oneshot::Sender<thread::ThreadId>>);

    impl http_body::Body for Polled {
        type Data = Bytes;
        type Error = StdError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
            Poll::Ready(self.0.take().map(|sender| {
                sender.send(thread::current().id()).unwrap();
                Ok(Frame::data(Bytes::from_static(b"x")))
            }))
        }
    }

    #[tokio::test]
    async fn a_body_is_encoded_on_another_thread() {
        let (sender, polled) = oneshot::channel();
        let mut frames = poll_offloaded(Frames::of(Polled(Some(sender)))).await;
        assert_ne!(polled.await.unwrap(), thread::current().id());
        let frame = poll_fn(|cx| Pin::new(&mut frames).poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "x");
        assert!(frames.is_end_stream());
    }

    /// Otherwise the end of the runtime would wait for it.
    #[tokio::test]
    async fn offloaded_work_ends_when_its_waiter_is_dropped() {
        let (held, ended) = oneshot::channel::<Infallible>();
        let task = tokio::spawn(poll_offloaded(async move {
            let _held = held;
            pending::<()>().await;
        }));
        tokio::task::yield_now().await;
        task.abort();
        ended.await.unwrap_err();
    }
}
