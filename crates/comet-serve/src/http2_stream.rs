//! A connection that should speak HTTP/2 to a server.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest part of the first bytes that an error shows.
const SHOWN_MAX: usize = 64;

/// The type of a SETTINGS frame.
const SETTINGS: u8 = 4;

/// See the module. It fails with [`NotHttp2`] if the other end begins with anything else. The HTTP library would report
/// a wrong frame type instead.
pub(crate) struct Http2Stream<S> {
    inner: S,
    has_begun: bool,
    protocol_error: LastProtocolError,
}

/// The first bytes of a server's latest connection, if they are not HTTP/2. A connection may be over before a call
/// learns why.
#[derive(Clone, Default, Debug)]
pub(crate) struct LastProtocolError(Arc<Mutex<Option<NotHttp2>>>);

impl LastProtocolError {
    pub(crate) fn not_http2(&self) -> Option<NotHttp2> {
        self.0.lock().expect(NO_PANIC).clone()
    }

    fn set(&self, begin: Option<NotHttp2>) {
        *self.0.lock().expect(NO_PANIC) = begin;
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

impl<S> Http2Stream<S> {
    pub(crate) fn new(inner: S, protocol_error: LastProtocolError) -> Self {
        Self { inner, has_begun: false, protocol_error }
    }
}

impl<S: AsyncRead + Unpin> Http2Stream<S> {
    /// The outcome of a write. If it failed because the other end has closed, the bytes received before explain more.
    fn explain<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if !self.has_begun && matches!(written, Poll::Ready(Err(_))) {
            let mut bytes = [0; SHOWN_MAX];
            if let Poll::Ready(Err(error)) =
                Pin::new(self).poll_read(cx, &mut ReadBuf::new(&mut bytes))
            {
                return Poll::Ready(Err(error));
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http2Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if !self.has_begun && !read.is_empty() {
            self.has_begun = true;
            if may_be_settings(read) {
                self.protocol_error.set(None);
            } else {
                let error = NotHttp2::new(read);
                self.protocol_error.set(Some(error.clone()));
                buf.set_filled(before);
                return Poll::Ready(Err(error.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Http2Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.explain(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.explain(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.inner).poll_flush(cx);
        self.explain(cx, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Whether `first`, the first bytes of a server, may be a SETTINGS frame (RFC 9113, section 3.4): a frame of less than
/// 64 KiB (the first byte), of that type (the fourth).
fn may_be_settings(first: &[u8]) -> bool {
    first.first().is_none_or(|byte| *byte == 0) && first.get(3).is_none_or(|kind| *kind == SETTINGS)
}

/// The other end speaks something else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NotHttp2 {
    /// The first line of its bytes, cut to [`SHOWN_MAX`].
    begin: Box<[u8]>,
}

impl NotHttp2 {
    fn new(first: &[u8]) -> Self {
        let line = first.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        Self { begin: line[..line.len().min(SHOWN_MAX)].into() }
    }
}

impl fmt::Display for NotHttp2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no HTTP/2, but \"{}\"", self.begin.escape_ascii())
    }
}

impl Error for NotHttp2 {}

impl From<NotHttp2> for io::Error {
    fn from(error: NotHttp2) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_that_are_not_http2_are_shown_in_the_error() {
        async fn check(sent: &[u8], expected: Result<(), &str>) {
            let protocol_error = LastProtocolError::default();
            let (mut server, client) = duplex(1_024);
            server.write_all(sent).await.unwrap();
            drop(server);
            let mut read = [0; 1_024];
            let outcome = Http2Stream::new(client, protocol_error.clone()).read(&mut read).await;
            assert_eq!(
                outcome.map(|count| &read[..count]).map_err(|error| error.to_string()),
                expected.map(|()| sent).map_err(str::to_owned)
            );
            assert_eq!(
                protocol_error.not_http2().map(|begin| begin.to_string()).as_deref(),
                expected.err()
            );
        }
        check(b"", Ok(())).await;
        check(b"\0\0\0\x04\0\0\0\0\0HTTP/1.1", Ok(())).await;
        check(b"\0\0", Ok(())).await;
        let begin = "no HTTP/2, but \"HTTP/1.1 502 Bad Gateway\"";
        check(b"HTTP/1.1 502 Bad Gateway\r\nServer: a\r\n\r\n<html>", Err(begin)).await;
        check(b"H", Err("no HTTP/2, but \"H\"")).await;
        check(
            b"\x15\x03\x01\0\x02\x02\x50",
            Err("no HTTP/2, but \"\\x15\\x03\\x01\\x00\\x02\\x02P\""),
        )
        .await;
        check(
            b"\0\0\x08\x06\0\0\0\0\0",
            Err("no HTTP/2, but \"\\x00\\x00\\x08\\x06\\x00\\x00\\x00\\x00\\x00\""),
        )
        .await;
        let cut = format!("no HTTP/2, but \"{}\"", "x".repeat(64));
        check(&[b'x'; 1_024], Err(&cut)).await;
    }
}
