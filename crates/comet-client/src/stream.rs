//! The socket under a client: plain, or with TLS over it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::error::Error;
use crate::options::Options;
#[cfg(feature = "tls")]
use crate::tls::TlsStream;

/// A connected socket that blocks, for as long as its timeouts let it.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream>),
}

impl Stream {
    /// Speaks over `socket` as `options` say. Nothing is read or written yet.
    #[cfg(feature = "tls")]
    pub(crate) fn over(socket: TcpStream, options: &Options) -> Result<Self, Error> {
        Ok(match &options.tls {
            Some(tls) => Self::Tls(Box::new(tls.stream(socket, &options.address)?)),
            None => Self::Plain(socket),
        })
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn over(socket: TcpStream, _options: &Options) -> Result<Self, Error> {
        Ok(Self::Plain(socket))
    }

    /// How long a read may wait; `None` is for ever.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket().set_read_timeout(timeout)
    }

    /// Reads once. `None`: nothing for us came in time; `Some(0)`: the stream has ended.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        match self {
            Self::Plain(socket) => Ok(in_time(socket.read(buffer))?),
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

    /// Ends both directions. A server that went at the session's goodbye has been faster, no more.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        #[cfg(feature = "tls")]
        if let Self::Tls(stream) = self {
            let _ = stream.say_goodbye();
        }
        match self.socket().shutdown(Shutdown::Both) {
            Err(error) if error.kind() != ErrorKind::NotConnected => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.socket(),
        }
    }
}

/// What a read gave before its timeout.
pub(crate) fn in_time(read: io::Result<usize>) -> io::Result<Option<usize>> {
    match read {
        Ok(len) => Ok(Some(len)),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}
