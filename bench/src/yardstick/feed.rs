//! How a yardstick gets its messages: over its standard input, each as its length and the number of the socket it
//! is for (u32, little-endian), and that many bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::process::ChildStdin;

use clap::ValueEnum;

use crate::Result;

/// The longest message a yardstick takes.
const MESSAGE_MAX: u32 = 16 << 20;
/// Instead of a socket's number: the message is for all.
const ALL: u32 = u32::MAX;

/// How a yardstick sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// io_uring, in batches, one send in flight for each socket.
    Ring,
    /// send(2), socket after socket.
    Send,
    /// Sends back what it receives on one connection.
    Echo,
    /// Answers the calls of the push API at once, and sends nothing.
    Grpc,
}

/// The bench's end.
pub(crate) struct Feed(pub ChildStdin);

impl Feed {
    /// Has `message` sent to one connection, by the order in which they were made, or to every one. Blocks
    /// while the yardstick is behind by a pipe full. Fails if the yardstick has ended.
    pub(crate) fn push(&mut self, to: Option<usize>, message: &[u8]) -> io::Result<()> {
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        let to = to.map_or(Ok(ALL), u32::try_from).map_err(io::Error::other)?;
        let mut head = [0; 8];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&to.to_le_bytes());
        self.0.write_all(&head)?;
        self.0.write_all(message)
    }
}

/// Calls `round` with each message of the standard input, to its end, and the sockets the message is for.
pub(super) fn each_message(
    connections: usize,
    mut round: impl FnMut(Vec<u8>, Range<usize>) -> io::Result<()>,
) -> Result<()> {
    let mut stdin = io::stdin().lock();
    let mut head = [0; 8];
    loop {
        match stdin.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        }
        let [l0, l1, l2, l3, t0, t1, t2, t3] = head;
        let (length, to) =
            (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([t0, t1, t2, t3]));
        let one = to as usize;
        let sockets = if to == ALL { 0..connections } else { one..one + 1 };
        if sockets.end > connections {
            return Err(format!("there is no socket {one}").into());
        }
        if length > MESSAGE_MAX {
            return Err(format!("a message of {length} bytes is beyond {MESSAGE_MAX}").into());
        }
        let mut message = vec![0; length as usize];
        stdin.read_exact(&mut message)?;
        round(message, sockets)?;
    }
}
