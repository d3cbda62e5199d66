//! Connecting a TCP socket and reading it, with timeouts.
#![allow(clippy::disallowed_methods, reason = "a deadline is a time of the clock")]

use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The shortest timeout: `TcpStream` accepts none of zero.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Connects to the first reachable address that `address` resolves to.
///
/// # Errors
/// That of the last address tried.
pub(crate) fn connect(address: &str, deadline: Option<Instant>) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, format!("{address} has no address"));
    for address in address.to_socket_addrs()? {
        let connected = match deadline {
            Some(deadline) => TcpStream::connect_timeout(&address, time_until(deadline)),
            None => TcpStream::connect(address),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A timeout for `TcpStream` that ends at `deadline`.
pub(crate) fn time_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(TIMEOUT_MIN)
}

/// Turns the timeout of a read into `None`.
///
/// # Errors
/// Any other error of the read.
pub(crate) fn or_timeout(read: io::Result<usize>) -> io::Result<Option<usize>> {
    match read {
        Ok(len) => Ok(Some(len)),
        Err(error) => match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        },
    }
}
