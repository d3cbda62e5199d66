//! Combines small writes of a caller, as grpc-go does: goim's job, which the bench stands in for, sends the head and
//! the body of a call in one segment. hyper's client flushes between them, so the server would be woken twice for a
//! call, and acknowledge it before it answers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::net::TcpStream;

/// If less than this is to be written, a flush lets the other tasks run first, once. grpc-go has the same limit.
const FEW: usize = 1_000;
/// If more than this is waiting, no write is accepted until it has been sent.
const MANY: usize = 64 << 10;

/// A socket that only sends when flushed.
pub(super) struct Gathered {
    socket: BufWriter<TcpStream>,
    /// Whether the other tasks have run since the last flush.
    has_yielded: bool,
}

impl Gathered {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket: BufWriter::with_capacity(MANY, socket), has_yielded: false }
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_yielded && (1..FEW).contains(&self.socket.buffer().len()) {
            self.has_yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.socket).poll_flush(context))?;
        self.has_yielded = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Gathered, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Gathered::new(near.unwrap()), far.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_written_while_a_flush_waits_are_sent_with_it() {
        let (mut near, mut far) = pair().await;
        near.write_all(b"head").await.unwrap();
        let first = poll_fn(|context| Poll::Ready(Pin::new(&mut near).poll_flush(context)));
        assert!(first.await.is_pending());
        near.write_all(b"body").await.unwrap();
        near.flush().await.unwrap();
        let mut buffer = [0; 100];
        // One segment, and therefore one read.
        let read = far.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..read], b"headbody");
    }

    #[tokio::test]
    async fn more_than_the_socket_takes_leaves_in_order() {
        let (mut near, mut far) = pair().await;
        let sent: Vec<u8> = (0..10 << 20).map(|at: usize| (at / 7) as u8).collect();
        let writing = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (_, read) = tokio::join!(writing, far.read_to_end(&mut received));
        assert_eq!(read.unwrap(), sent.len());
        assert!(received == sent);
    }
}
