//! Listening sockets of clients and of callers: opened in one way, with one rule for IPv6 and one sentence
//! for what fails.
//!
//! An IPv6 address listens for IPv6 alone (`IPV6_V6ONLY`), whatever `net.ipv6.bindv6only` says: `0.0.0.0`
//! and `[::]` are two addresses, and whoever wants both names both.
//!
//! **Invariant:** it depends on no other crate of the workspace, and nothing here accepts.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// An address that could not be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The kernel's error.
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "{address} is in use: stop what listens there (ss -ltnp 'sport = :{}') or bind another port",
                address.port()
            ),
            io::ErrorKind::AddrNotAvailable => {
                let any = if address.is_ipv6() { "[::]" } else { "0.0.0.0" };
                write!(f, "{address} is no address of this host: bind one that is, or {any}")
            }
            io::ErrorKind::PermissionDenied => write!(
                f,
                "{address} may not be bound: ports below {} need CAP_NET_BIND_SERVICE",
                1024
            ),
            _ => write!(f, "{address} cannot be listened on: {source}"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A socket for `address`, neither bound nor listening.
///
/// # Errors
/// If the kernel refuses.
pub fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Binds `address` for a moment, without listening: no client can connect. Port 0 always succeeds.
///
/// # Errors
/// If the kernel refuses, or another socket listens there.
pub fn check(address: SocketAddr) -> Result<(), ListenError> {
    let bind = || socket(address)?.bind(&address.into());
    bind().map_err(|source| ListenError { address, source })
}

/// Binds `address` and listens.
///
/// # Errors
/// If the kernel refuses, or another socket listens there.
pub fn listen(address: SocketAddr, backlog: i32) -> Result<Socket, ListenError> {
    let open = || {
        let socket = socket(address)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        Ok(socket)
    };
    open().map_err(|source| ListenError { address, source })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_address_in_use_is_named() {
        let free = listen("127.0.0.1:0".parse().unwrap(), 8).unwrap();
        let address = free.local_addr().unwrap().as_socket().unwrap();
        for error in [listen(address, 8).unwrap_err(), check(address).unwrap_err()] {
            let error = error.to_string();
            assert!(
                error.starts_with(&format!("{address} is in use: stop what listens there")),
                "{error}"
            );
        }
        drop(free);
        check(address).unwrap();
        listen(address, 8).unwrap();
    }

    #[test]
    fn an_address_of_another_host_is_named() {
        let check = |address: &str, expected: &str| {
            let error = listen(address.parse().unwrap(), 8).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{address} is no address of this host: bind one that is, or {expected}")
            );
        };
        check("192.0.2.1:9", "0.0.0.0");
        check("[2001:db8::1]:9", "[::]");
    }

    #[test]
    fn ipv6_listens_for_ipv6_alone() {
        let any = listen("[::]:0".parse().unwrap(), 8).unwrap();
        let port = any.local_addr().unwrap().as_socket().unwrap().port();
        assert!(TcpStream::connect(("::1", port)).is_ok());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        listen(SocketAddr::from(([0, 0, 0, 0], port)), 8).unwrap();
    }
}
