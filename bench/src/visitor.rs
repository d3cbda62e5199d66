//! A client on a blocking socket, for the few that do things to a server that no ordinary client does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use comet_client::{Session, Transport};
use rustix::net::sockopt;

/// How long one read or write may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The size of one read.
const READ: usize = 4096;

/// A connection that the server has authenticated.
pub(crate) struct Visitor {
    pub stream: TcpStream,
    pub session: Session,
}

impl Visitor {
    /// Connects and authenticates with `token`. Fails if the server refuses, or takes too long.
    pub(crate) fn enter(
        address: SocketAddr,
        transport: Transport,
        token: &str,
    ) -> io::Result<Self> {
        Self::enter_on(connect(address)?, transport, token)
    }

    /// The same on a connection that has at least begun to connect.
    pub(crate) fn enter_on(
        stream: TcpStream,
        transport: Transport,
        token: &str,
    ) -> io::Result<Self> {
        prepare(&stream)?;
        let session = Session::of_protocol_1(transport, "localhost", "/sub", token.as_bytes());
        let mut visitor = Self { stream, session };
        while !visitor.session.is_live() {
            visitor.write()?;
            let mut bytes = [0; READ];
            let read = visitor.stream.read(&mut bytes)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let handled = visitor.session.handle_input(&bytes[..read], |_, _| {});
            handled.map_err(io::Error::other)?;
        }
        Ok(visitor)
    }

    /// Sends a frame. Fails if the socket does.
    pub(crate) fn send(&mut self, operation: i32, body: &[u8]) -> io::Result<()> {
        self.session.send(operation, 0, body);
        self.write()
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) -> io::Result<()> {
        reset(self.stream)
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.session.output().is_empty() {
            let written = self.stream.write(self.session.output())?;
            self.session.consume_output(written);
        }
        Ok(())
    }
}

/// Connects, and sends nothing yet. Fails if nobody listens.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    prepare(&stream)?;
    Ok(stream)
}

/// Ends a connection with a reset.
pub(crate) fn reset(stream: TcpStream) -> io::Result<()> {
    // With a linger of 0 s, close(2) sends an RST (tcp(7), SO_LINGER).
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}
