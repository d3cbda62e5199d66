//! A push caller over frames (`push.frames` of a comet): blocking, with any number of pushes under way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::ToSocketAddrs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use comet_proto::Frame;
use comet_proto::push_frame::{PushLedger, PushReply, PushRequest, PushTarget};

use crate::socket;

/// Longest reply that is read, bytes; a ledger is far shorter.
const REPLY_MAX: usize = 64 << 10;

/// Bytes read at once.
const READ_BYTES: usize = 16 << 10;

/// A connection of a push caller.
///
/// [`Pusher::push`] makes a push and waits for its reply. [`Pusher::begin`], [`Pusher::flush`] and [`Pusher::next`] are
/// its parts: a program may begin any number of pushes, and gets a reply for each, in their order. The server stops
/// reading from a caller that leaves more than a thousand replies unread. `flush` then fails with
/// [`ErrorKind::WouldBlock`] after the timeout; the program should take replies and flush again.
pub struct Pusher {
    stream: Box<dyn Stream>,
    /// Requests that are not written yet.
    output: Vec<u8>,
    /// Bytes that were read. Those before `read` are processed.
    input: Vec<u8>,
    read: usize,
    next_id: u32,
    /// The id of the next reply.
    next_reply: u32,
    /// How many of the next replies are discarded, because the call that began the push has failed.
    abandoned: u32,
}

trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// The result of a push: its ledger, or why it was not made.
pub type PushOutcome = Result<PushLedger, PushRefused>;

/// A push that the server did not make, or whose result it does not fully know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushRefused {
    /// A code of gRPC.
    pub status: u32,
    /// A sentence.
    pub message: String,
}

impl std::fmt::Display for PushRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {})", self.message, self.status)
    }
}

impl std::error::Error for PushRefused {}

impl Pusher {
    /// Connects over TCP. Connecting, a read or a write that takes longer than `timeout` fails.
    ///
    /// # Errors
    /// If there is no listener.
    pub fn tcp(address: impl ToSocketAddrs, timeout: Duration) -> io::Result<Self> {
        let stream = socket::connect(address, socket::deadline(timeout))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self::new(stream))
    }

    /// Connects to a Unix socket. A read or a write that takes longer than `timeout` fails.
    ///
    /// # Errors
    /// If there is no listener.
    pub fn unix(path: impl AsRef<Path>, timeout: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self::new(stream))
    }

    fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            output: Vec::new(),
            input: Vec::new(),
            read: 0,
            next_id: 0,
            next_reply: 0,
            abandoned: 0,
        }
    }

    /// Sends the server a token, if it requires one. Call this before the first push.
    ///
    /// # Errors
    /// If the connection is lost, or the server refuses the token: [`ErrorKind::PermissionDenied`].
    pub fn authenticate(&mut self, token: &str) -> io::Result<()> {
        self.request(PushTarget::Token, 0, token.as_bytes());
        self.flushed_and(|pusher| {
            pusher.next_reply(|status, body| {
                if status == 0 {
                    return Ok(());
                }
                let sentence = String::from_utf8_lossy(body).into_owned();
                Err(io::Error::new(ErrorKind::PermissionDenied, sentence))
            })?
        })
    }

    /// Pushes a frame with `operation` and `body`, and waits for the result.
    ///
    /// # Errors
    /// If the connection is lost, or the reply takes longer than the timeout: [`ErrorKind::WouldBlock`]. Then the
    /// result of the push is unknown, and the server may not have read it yet. After a timeout the next push is made
    /// only when the server has answered this one.
    ///
    /// # Panics
    /// If a key or a room has more than 65,535 bytes, or if replies of [`Pusher::begin`] were not taken.
    pub fn push(
        &mut self,
        target: PushTarget<'_>,
        operation: i32,
        body: &[u8],
    ) -> io::Result<PushOutcome> {
        assert_eq!(self.under_way(), 0, "earlier replies are taken first");
        // So at most one request waits to be written, however often the program retries.
        self.flush()?;
        self.skip_abandoned()?;
        self.begin(target, operation, body);
        self.flushed_and(Self::next)
    }

    /// Writes the begun pushes and takes the reply. If that fails, the reply will be discarded.
    fn flushed_and<T>(&mut self, take: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        let taken = self.flush().and_then(|()| take(self));
        if taken.is_err() {
            self.abandoned += self.under_way();
        }
        taken
    }

    fn skip_abandoned(&mut self) -> io::Result<()> {
        while self.abandoned > 0 {
            self.next_reply(|_, _| ())?;
            self.abandoned -= 1;
        }
        Ok(())
    }

    /// Queues a push behind those that [`Pusher::flush`] writes next.
    ///
    /// # Panics
    /// If a key or a room has more than 65,535 bytes.
    pub fn begin(&mut self, target: PushTarget<'_>, operation: i32, body: &[u8]) {
        self.request(target, operation, body);
    }

    fn request(&mut self, target: PushTarget<'_>, operation: i32, body: &[u8]) {
        let frame = Frame { version: comet_proto::VERSION, operation, sequence: 0, body };
        let request = PushRequest { id: self.next_id, target, accept: 0, frame };
        request.encode(&mut self.output);
        self.next_id = self.next_id.wrapping_add(1);
    }

    /// Writes the begun pushes. If that takes too long, the next call continues with the rest.
    ///
    /// # Errors
    /// If the connection is lost, or the server reads nothing for the timeout: [`ErrorKind::WouldBlock`].
    pub fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        let outcome = loop {
            let rest = &self.output[written..];
            if rest.is_empty() {
                break Ok(());
            }
            match self.stream.write(rest) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.output.drain(..written);
        outcome
    }

    /// Pushes whose replies were not taken, without those that [`Pusher::push`] has given up.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.next_id.wrapping_sub(self.next_reply).wrapping_sub(self.abandoned)
    }

    /// Waits for the reply to the oldest unanswered push.
    ///
    /// # Errors
    /// If the connection is lost, or the frame received is not its reply.
    #[allow(clippy::should_implement_trait, reason = "an iterator would end")]
    pub fn next(&mut self) -> io::Result<PushOutcome> {
        self.skip_abandoned()?;
        self.next_reply(|status, body| match status {
            0 => PushLedger::decode(body).map(Ok),
            status => {
                let message = String::from_utf8_lossy(body).into_owned();
                Some(Err(PushRefused { status, message }))
            }
        })?
        .ok_or_else(|| bad("the ledger is cut"))
    }

    fn next_reply<T>(&mut self, take: impl FnOnce(u32, &[u8]) -> T) -> io::Result<T> {
        loop {
            let reply = PushReply::decode(&self.input[self.read..], REPLY_MAX).map_err(bad)?;
            if let Some((PushReply { status, id, body }, length)) = reply {
                // For an unreadable request the server does not know the id.
                if id != self.next_reply && status == 0 {
                    return Err(bad(format!(
                        "request {id} is answered before {}",
                        self.next_reply
                    )));
                }
                let taken = take(status, body);
                self.read += length;
                self.next_reply = self.next_reply.wrapping_add(1);
                return Ok(taken);
            }
            self.input.drain(..std::mem::take(&mut self.read));
            let end = self.input.len();
            self.input.resize(end + READ_BYTES, 0);
            let read = self.stream.read(&mut self.input[end..]);
            self.input.truncate(end + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                // A signal to the program does not end the connection.
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }
}

impl std::fmt::Debug for Pusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pusher").field("under_way", &self.under_way()).finish_non_exhaustive()
    }
}

fn bad(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
