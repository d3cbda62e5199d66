//! The yardstick: the least a server can do. A bare loop that sends bytes it is handed to all its sockets, in
//! a process of its own, measured exactly as the server is.
//!
//! It speaks just enough of the protocol for the same receiver: it answers the upgrade and the
//! authentication. Everything else is taken out: no rooms, no filters, no queues, no gRPC. Messages come
//! over its standard input, each as its length and the number of the socket it is for (u32,
//! little-endian), and that many bytes.

mod admit;
mod grpc;
mod pingpong;
mod plain;
mod ring;
mod serve;

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{ChildStdin, ChildStdout, Stdio};

use clap::ValueEnum;
use comet_cpus::CpuList;
use serde::Serialize;

pub(crate) use self::pingpong::ping_pong;
pub(crate) use self::serve::serve;
use crate::Result;
use crate::launch::Running;

/// Bytes in front of a message.
const HEAD_LEN: usize = 8;
/// The longest message a yardstick takes.
const MESSAGE_MAX: u32 = 16 << 20;

/// Instead of a socket's number: the message is for all.
const ALL: u32 = u32::MAX;

/// How a yardstick sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
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

/// A yardstick that runs.
pub(crate) struct Yardstick {
    pub process: Running,
    pub address: SocketAddr,
    /// Takes the messages.
    pub messages: Feed,
}

/// The way messages go to a yardstick.
pub(crate) struct Feed(ChildStdin);

impl Yardstick {
    /// Starts one that will take `connections`, on `cpus`. Fails where it could not be started, or ended
    /// before it listened.
    pub(crate) fn start(mode: Mode, connections: usize, cpus: &CpuList) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = Running::command(cpus, &program)?;
        let mode = mode.to_possible_value().expect("no mode is skipped");
        command
            .args(["yardstick", "--mode", mode.get_name()])
            .args(["--connections", &connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Running::start(&mut command)?;
        let (stdin, stdout) = process.pipes();
        let port = read_port(stdout)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self { process, address, messages: Feed(stdin) })
    }
}

impl Feed {
    /// Has `message` sent to one connection, by the order in which they were made, or to every one. Blocks
    /// while the yardstick is behind by a pipe full. Fails where the yardstick has ended.
    pub(crate) fn push(&mut self, to: Option<usize>, message: &[u8]) -> io::Result<()> {
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        let to = to.map_or(Ok(ALL), u32::try_from).map_err(io::Error::other)?;
        let mut head = [0; HEAD_LEN];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&to.to_le_bytes());
        self.0.write_all(&head)?;
        self.0.write_all(message)
    }
}

fn read_port(stdout: ChildStdout) -> Result<u16> {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let port = line.trim().parse();
    port.map_err(|_| "the yardstick ended before it listened; its reason is above".into())
}
