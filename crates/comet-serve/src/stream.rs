//! A caller's socket with two bounds that HTTP libraries lack: on the bytes read in one turn, and on the time for which
//! a peer takes nothing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::active_time::sleep_active;

/// Bytes read in one turn of a connection's task. After them the HTTP library handles what it has read, so a burst of
/// requests that are reset at once does not pile up in it.
const TURN_BYTES: usize = 64 << 10;

/// How long a peer may take none of the written bytes.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The state that the task of a connection and its stream share.
#[derive(Default)]
pub(crate) struct Meter {
    /// Bytes that may be read in this turn.
    left: AtomicUsize,
    /// Bytes read in all.
    read: AtomicUsize,
}

impl Meter {
    /// A turn of the task begins.
    pub(crate) fn begin_turn(&self) {
        self.left.store(TURN_BYTES, Relaxed);
    }

    /// Bytes read so far.
    pub(crate) fn read(&self) -> usize {
        self.read.load(Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.read.fetch_add(bytes, Relaxed);
        self.left.store(self.left.load(Relaxed).saturating_sub(bytes), Relaxed);
    }
}

/// See the module.
pub(crate) struct MeteredStream<S> {
    inner: S,
    meter: Arc<Meter>,
    /// Set while the peer takes nothing.
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> MeteredStream<S> {
    pub(crate) fn new(inner: S, meter: Arc<Meter>) -> Self {
        Self { inner, meter, stalled: None }
    }

    /// `written`, or an error if the peer has taken nothing for too long.
    fn within_time<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep_active(WRITE_TIMEOUT)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.meter.left.load(Relaxed) == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.meter.count(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.within_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.within_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.within_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.within_time(cx, shut)
    }
}
