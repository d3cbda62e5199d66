//! The stream of a client: a plain socket, or TLS over one.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::error::Error;
use crate::options::Options;
use crate::socket::or_timeout;
#[cfg(feature = "tls")]
use crate::tls::TlsStream;

/// A connected stream that blocks up to its timeouts.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

impl Stream {
    /// A stream over `socket`, with TLS if `options` have it. Nothing is read or written yet.
    #[cfg(feature = "tls")]
    pub(crate) fn new(socket: TcpStream, options: &Options) -> Result<Self, Error> {
        Ok(match &options.tls {
            Some(tls) => Self::Tls(Box::new(tls.stream(socket, &options.address)?)),
            None => Self::Plain(socket),
        })
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn new(socket: TcpStream, _options: &Options) -> Result<Self, Error> {
        Ok(Self::Plain(socket))
    }

    /// How long a read may wait; `None` is for ever.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket().set_read_timeout(timeout)
    }

    /// Reads once. `None`: no data arrived in time; `Some(0)`: the stream has ended.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        match self {
            Self::Plain(socket) => Ok(or_timeout(socket.read(buffer))?),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Self::Plain(socket) => Ok(socket.write_all(bytes)?),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write_all(bytes),
        }
    }

    /// Ends both directions. It is no error if the server has done so before, on the session's
    /// close.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        #[cfg(feature = "tls")]
        if let Self::Tls(stream) = self {
            let _ = stream.close();
        }
        match self.socket().shutdown(Shutdown::Both) {
            Err(error) if error.kind() != ErrorKind::NotConnected => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.socket(),
        }
    }
}
