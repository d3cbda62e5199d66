//! The yardstick: the least that a server can do. A bare loop that sends the bytes it is given to all its sockets, in a
//! separate process that is measured exactly like the server.
//!
//! It speaks just enough of the protocol for the same receiver: it answers the upgrade and the authentication.
//! Everything else is left out: no rooms, no filters, no queues, no gRPC. Its messages arrive on its standard input,
//! each with its length and the number of the socket it is for (u32, little-endian), followed by that many bytes.

mod admit;
mod answer;
mod grpc;
mod loops;

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::ops::Range;
use std::process::ChildStdin;
use std::thread;

use clap::ValueEnum;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

use self::admit::accept_all;
use self::answer::answer_all;
use self::loops::{PlainLoop, RingLoop};
use crate::Result;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// The longest message that a yardstick accepts.
const MESSAGE_MAX: u32 = 16 << 20;
/// The number of sockets in a group.
pub(crate) const FAN: usize = 10;
/// Bytes that a group's yardstick reads at once.
const READ_BYTES: usize = 64 << 10;
/// In place of a socket's number: the message is for all sockets.
const ALL: u32 = u32::MAX;

/// How a yardstick sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Mode {
    /// io_uring, in batches, one send in flight for each socket.
    Ring,
    /// send(2), socket after socket.
    Send,
    /// io_uring: receives heartbeats and answers them, and sends nothing else.
    Answer,
    /// Like `ring`, but the messages arrive on an additional connection, and each is for a group of ten sockets.
    Fan,
    /// Like `fan`, but the messages arrive at the push API, through a bare gRPC server on the same thread.
    FanGrpc,
    /// Like `fan`, but each message is for one socket, and is also sent back to its sender.
    One,
    /// Sends back what it receives on one connection.
    Echo,
    /// Answers the calls of the push API at once, and sends nothing.
    Grpc,
}

impl Mode {
    /// Whether messages arrive at the push API.
    pub(crate) fn takes_calls(self) -> bool {
        matches!(self, Self::Grpc | Self::FanGrpc)
    }
}

/// The bench's end of the connection to a yardstick.
pub(crate) enum Feed {
    Pipe(ChildStdin),
    /// Connected with the first message, after the connections that will receive it. The yardstick's standard input
    /// stays open meanwhile.
    Socket {
        address: SocketAddr,
        stream: Option<TcpStream>,
        is_answered: bool,
        _pipe: ChildStdin,
    },
}

impl Feed {
    /// The feed of the yardstick at `address`. If `is_answered`, answers are read and discarded.
    pub(crate) fn socket(address: SocketAddr, is_answered: bool, pipe: ChildStdin) -> Self {
        Self::Socket { address, stream: None, is_answered, _pipe: pipe }
    }

    /// Makes the yardstick send `message` to one connection or group, numbered in the order in which they were made, or
    /// to all. Blocks while the yardstick is a full pipe behind. Fails if the yardstick has ended.
    pub(crate) fn push(&mut self, to: Option<usize>, message: &[u8]) -> io::Result<()> {
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        let to = to.map_or(Ok(ALL), u32::try_from).map_err(io::Error::other)?;
        let head = u64::from(to) << 32 | u64::from(length);
        match self {
            Self::Pipe(pipe) => {
                pipe.write_all(&head.to_le_bytes())?;
                pipe.write_all(message)
            }
            Self::Socket { address, stream, is_answered, .. } => {
                let stream = match stream {
                    Some(stream) => stream,
                    None => {
                        let connected = TcpStream::connect(*address)?;
                        connected.set_nodelay(true)?;
                        if *is_answered {
                            let mut answers = connected.try_clone()?;
                            // The thread ends with the yardstick.
                            thread::spawn(move || io::copy(&mut answers, &mut io::sink()));
                        }
                        stream.insert(connected)
                    }
                };
                stream.write_all(&[&head.to_le_bytes(), message].concat())
            }
        }
    }
}

/// Accepts the connections and sends the given messages, until the standard input ends. The first line of the standard
/// output is the port. Fails if a socket could not be made or a connection does not speak the protocol.
pub(crate) fn serve(mode: Mode, connections: usize) -> Result<()> {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // Accepted sockets inherit this option.
    sockopt::set_tcp_nodelay(&listener, true)?;
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&listener, BACKLOG)?;
    let listener = TcpListener::from(listener);
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", listener.local_addr()?.port())?;
    stdout.flush()?;
    match mode {
        Mode::Echo => echo(&listener),
        Mode::Grpc => grpc::serve(listener),
        Mode::FanGrpc => {
            let ring = RingLoop::new(accept_all(&listener, connections)?)?;
            grpc::serve_groups(listener, ring)
        }
        Mode::Answer => answer_all(accept_all(&listener, connections)?),
        Mode::Ring => {
            let mut ring = RingLoop::new(accept_all(&listener, connections)?)?;
            each_message(io::stdin().lock(), connections, |message, to| ring.round(message, to))
        }
        Mode::Fan => {
            let mut ring = RingLoop::new(accept_all(&listener, connections)?)?;
            let feed = BufReader::with_capacity(READ_BYTES, listener.accept()?.0);
            each_message(feed, connections / FAN, |message, to| {
                ring.round(message, to.start * FAN..to.end * FAN)
            })
        }
        Mode::One => {
            let mut sockets = accept_all(&listener, connections)?;
            let feed = listener.accept()?.0;
            sockets.push(feed.try_clone()?);
            let mut ring = RingLoop::new(sockets)?;
            let feed = BufReader::with_capacity(READ_BYTES, feed);
            each_message(feed, connections, |message, to| {
                ring.round(message, to.chain([connections]))
            })
        }
        Mode::Send => {
            let mut plain = PlainLoop::new(accept_all(&listener, connections)?);
            each_message(io::stdin().lock(), connections, |message, to| plain.round(&message, to))
        }
    }
}

fn echo(listener: &TcpListener) -> Result<()> {
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let mut buffer = [0; 64 << 10];
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(()),
            read => socket.write_all(&buffer[..read])?,
        }
    }
}

/// Calls `round` with each message of `input`, to its end, and with the sockets or groups that it is for.
fn each_message(
    mut input: impl BufRead,
    connections: usize,
    mut round: impl FnMut(Vec<u8>, Range<usize>) -> io::Result<()>,
) -> Result<()> {
    let mut head = [0; 8];
    loop {
        match input.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            outcome => outcome?,
        }
        let (length, to) =
            (u64::from_le_bytes(head) as u32, (u64::from_le_bytes(head) >> 32) as u32);
        let one = to as usize;
        let sockets = if to == ALL { 0..connections } else { one..one + 1 };
        if sockets.end > connections {
            return Err(format!("there is no socket {one}").into());
        }
        if length > MESSAGE_MAX {
            return Err(format!("a message of {length} bytes is beyond {MESSAGE_MAX}").into());
        }
        let mut message = vec![0; length as usize];
        input.read_exact(&mut message)?;
        round(message, sockets)?;
    }
}
