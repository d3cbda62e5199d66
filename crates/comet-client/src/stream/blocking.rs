//! The stream of the blocking client: a socket, or TLS over one.

use std::future::{Ready, ready};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use super::Stream;
use crate::error::Error;
use crate::options::Options;
use crate::socket::{self, or_timeout};
use crate::stop::Stopper;
#[cfg(feature = "tls")]
use crate::tls::TlsStream;

/// A connected stream whose calls block up to their timeouts.
#[derive(Debug)]
pub(crate) enum BlockingStream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

impl BlockingStream {
    fn connect_now(options: &Options, deadline: Option<Instant>) -> Result<Self, Error> {
        let socket = socket::connect(&options.address, deadline)?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(options.timeout))?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &options.tls {
            // Its handshake is part of the first reads and writes.
            return Ok(Self::Tls(Box::new(tls.stream(socket, &options.address)?)));
        }
        Ok(Self::Plain(socket))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.socket(),
        }
    }
}

impl Stream for BlockingStream {
    type Connecting = Ready<Result<Self, Error>>;

    fn connect(options: &Options, deadline: Option<Instant>) -> Self::Connecting {
        ready(Self::connect_now(options, deadline))
    }

    async fn read(
        &mut self,
        buffer: &mut [u8],
        deadline: Option<Instant>,
    ) -> Result<Option<usize>, Error> {
        self.socket().set_read_timeout(deadline.map(socket::time_until))?;
        match self {
            Self::Plain(socket) => Ok(or_timeout(socket.read(buffer))?),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes)?,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Error> {
        #[cfg(feature = "tls")]
        if let Self::Tls(stream) = self {
            let _ = stream.close();
        }
        match self.socket().shutdown(Shutdown::Both) {
            Err(error) if error.kind() != ErrorKind::NotConnected => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn obey(&mut self, stopper: &Stopper) -> io::Result<()> {
        stopper.watch(Some(self.socket().try_clone()?));
        Ok(())
    }

    async fn sleep(until: Option<Instant>, stopper: &Stopper) {
        stopper.block_until(until);
    }
}
