//! Connecting and reading a TCP socket, with timeouts.
#![allow(clippy::disallowed_methods, reason = "a deadline is a time of the clock")]

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::block_on::block_on;

/// The shortest timeout: `TcpStream` does not accept zero.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Connects to the first reachable address that `address` resolves to, as [`to_any`] does.
pub(crate) fn connect(
    address: impl ToSocketAddrs,
    deadline: Option<Instant>,
) -> io::Result<TcpStream> {
    let addresses: Vec<_> = address.to_socket_addrs()?.collect();
    block_on(to_any(&addresses, deadline, |address, timeout| async move {
        match timeout {
            Some(timeout) => TcpStream::connect_timeout(&address, timeout),
            None => TcpStream::connect(address),
        }
    }))
}

/// Connects to the first reachable address. The addresses share the time equally, so an address that does not answer
/// leaves time for the others.
///
/// # Errors
/// The error of the last address tried.
pub(crate) async fn to_any<T, F: Future<Output = io::Result<T>>>(
    addresses: &[SocketAddr],
    deadline: Option<Instant>,
    connect: impl Fn(SocketAddr, Option<Duration>) -> F,
) -> io::Result<T> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for (at, &address) in addresses.iter().enumerate() {
        let left = (addresses.len() - at) as u32;
        let share = deadline.map(|deadline| (time_until(deadline) / left).max(TIMEOUT_MIN));
        match connect(address, share).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The end of `timeout`. `None`: beyond what an `Instant` can hold.
pub(crate) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A listener with a full queue accepts no connection: the kernel drops the packets. One failure may be due to a
    /// busy machine.
    #[test]
    fn an_address_that_does_not_answer_leaves_time_for_the_next() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent_at = silent.local_addr().unwrap();
        let limit = Duration::from_secs(1);
        let connect = || TcpStream::connect_timeout(&silent_at, limit);
        let queue: Vec<_> = std::iter::from_fn(|| connect().or_else(|_| connect()).ok()).collect();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [silent_at, good.local_addr().unwrap()];
        let deadline = Instant::now().checked_add(Duration::from_secs(20));
        let stream = block_on(to_any(&addresses, deadline, |address, timeout| async move {
            TcpStream::connect_timeout(&address, timeout.unwrap())
        }));
        assert_eq!(stream.unwrap().peer_addr().unwrap(), addresses[1]);
        drop(queue);
    }
}
