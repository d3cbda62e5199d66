//! The process of a yardstick: accepts its connections, then sends what it is handed.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::ops::Range;

use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

use super::admit::accept_all;
use super::grpc;
use super::plain::PlainLoop;
use super::ring::RingLoop;
use super::{ALL, HEAD_LEN, MESSAGE_MAX, Mode};
use crate::Result;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Runs until the standard input ends. The port is the first line of the standard output. Fails where a
/// socket could not be made or a connection does not speak the protocol.
pub(crate) fn serve(mode: Mode, connections: usize) -> Result<()> {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // Accepted sockets inherit it.
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
        Mode::Ring => {
            let mut ring = RingLoop::new(accept_all(&listener, connections)?)?;
            each_message(connections, |message, to| ring.round(message, to))
        }
        Mode::Send => {
            let mut plain = PlainLoop::new(accept_all(&listener, connections)?);
            each_message(connections, |message, to| plain.round(&message, to))
        }
    }
}

/// Calls `round` with each message and the sockets it is for.
fn each_message(
    connections: usize,
    mut round: impl FnMut(Vec<u8>, Range<usize>) -> io::Result<()>,
) -> Result<()> {
    let mut stdin = io::stdin().lock();
    let mut head = [0; HEAD_LEN];
    loop {
        match stdin.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
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
