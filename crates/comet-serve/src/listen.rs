//! Listeners of servers that callers reach, as opposed to clients.

use std::net::{SocketAddr, TcpListener};

use comet_listen::ListenError;
use tokio::net::TcpStream;

use crate::start_error::StartError;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1_024;

/// The listeners of a setting.
#[derive(Debug)]
pub struct Bound {
    /// In the order of their addresses in the configuration.
    pub listeners: Vec<TcpListener>,
    /// Where they are, with real ports.
    pub addresses: Vec<SocketAddr>,
}

/// Listens at every address of `setting`, a key of the configuration; port 0 takes a free one.
///
/// # Errors
/// [`StartError::Listen`] names the first address that is taken or none.
pub fn listen(setting: &'static str, addresses: &[SocketAddr]) -> Result<Bound, StartError> {
    let mut bound = Bound { listeners: Vec::new(), addresses: Vec::new() };
    for &address in addresses {
        let (listener, at) =
            open(address).map_err(|source| StartError::Listen { setting, source })?;
        bound.listeners.push(listener);
        bound.addresses.push(at);
    }
    Ok(bound)
}

fn open(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let socket = comet_listen::listen(address, BACKLOG)?;
    let ready = || {
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let at = listener.local_addr()?;
        Ok((listener, at))
    };
    ready().map_err(|source| ListenError { address, source })
}

/// Sends what is written at once: a reply is one small segment, and must not wait for the next.
pub(crate) fn no_delay(stream: &mut TcpStream) {
    // A socket that refuses has failed already, and the first read reports it.
    let _ = stream.set_nodelay(true);
}

/// Those of `addresses` that other machines may reach.
pub fn exposed(addresses: &[SocketAddr]) -> impl Iterator<Item = &SocketAddr> {
    addresses.iter().filter(|address| !address.ip().to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_exposed() {
        let addresses = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
        let beyond = ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1"];
        let parsed: Vec<SocketAddr> =
            addresses.iter().chain(&beyond).map(|address| address.parse().unwrap()).collect();
        assert_eq!(exposed(&parsed).map(ToString::to_string).collect::<Vec<_>>(), beyond);
    }

    #[test]
    fn a_taken_address_is_named_with_its_setting() {
        let free = listen("some.key", &["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = free.addresses[0];
        assert_ne!(address.port(), 0);
        assert_eq!(
            listen("some.key", &[address]).unwrap_err().to_string(),
            format!("some.key: {}", comet_listen::listen(address, 1).unwrap_err())
        );
    }
}
