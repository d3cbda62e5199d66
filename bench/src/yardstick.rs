//! The yardstick: the least a server can do. A bare loop that sends bytes it is handed to all its sockets, in
//! a process of its own, measured exactly as the server is.
//!
//! It speaks just enough of the protocol for the same receiver: it answers the upgrade and the
//! authentication. Everything else is taken out: no rooms, no filters, no queues, no gRPC.

mod admit;
mod feed;
mod grpc;
mod pingpong;
mod plain;
mod ring;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

use self::admit::accept_all;
use self::feed::each_message;
pub(crate) use self::feed::{Feed, Mode};
pub(crate) use self::pingpong::ping_pong;
use self::plain::PlainLoop;
use self::ring::RingLoop;
use crate::Result;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Accepts the connections and sends what it is handed, until the standard input ends. The port is the first line
/// of the standard output. Fails if a socket could not be made or a connection does not speak the protocol.
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
