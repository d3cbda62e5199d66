//! Listening sockets for clients and callers: opened in one way, with one rule for IPv6 and one sentence for each
//! failure.
//!
//! An IPv6 address listens for IPv6 alone (`IPV6_V6ONLY`), whatever `net.ipv6.bindv6only` says. So `0.0.0.0` and `[::]`
//! are two addresses, and a configuration that wants both names both.
//!
//! A Unix socket replaces a stale one without a listener. Its file is removed when its listener ends.
//!
//! **Invariant:** it depends on no other crate of the workspace, and nothing here accepts.

mod address;
mod inherited;
mod unix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

pub use address::{Address, BadAddress, UNIX_PATH_MAX, unix_path};
pub use inherited::{Inherited, NamedSocket, names};
pub use unix::{SocketFile, inherit_unix, keep_socket_files, listen_unix};

/// An address that could not be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// The address.
    pub address: Address,
    /// The kernel's error.
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Plain(address) | Address::Tls(address) => {
                explain_tcp(f, *address, &self.source)
            }
            Address::Unix(path) => explain_unix(f, path, &self.source),
        }
    }
}

fn explain_tcp(f: &mut fmt::Formatter<'_>, address: SocketAddr, source: &io::Error) -> fmt::Result {
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
        io::ErrorKind::PermissionDenied => {
            write!(f, "{address} may not be bound: ports below {} need CAP_NET_BIND_SERVICE", 1024)
        }
        _ => write!(f, "{address} cannot be listened on: {source}"),
    }
}

fn explain_unix(f: &mut fmt::Formatter<'_>, path: &Path, source: &io::Error) -> fmt::Result {
    write!(f, "unix:{} ", path.display())?;
    match source.kind() {
        io::ErrorKind::AddrInUse => write!(
            f,
            "is in use: stop what listens there (ss -lxp 'src {}') or bind another path",
            path.display()
        ),
        io::ErrorKind::AlreadyExists => {
            f.write_str("is a file and no socket: move it away, or bind another path")
        }
        io::ErrorKind::NotFound => f.write_str(
            "has no directory: make it (RuntimeDirectory= in a systemd unit), or bind another path",
        ),
        io::ErrorKind::PermissionDenied => {
            f.write_str("may not be made: this user has to be able to read and write its directory")
        }
        _ => write!(f, "cannot be listened on: {source}"),
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

/// Tests whether listening at `address` would succeed. An IP address is bound for a moment, without listening, so no
/// client can connect. Port 0 always succeeds. For a Unix socket only its file is examined, and nothing is made.
///
/// # Errors
/// If the kernel refuses, or another socket listens there.
pub fn check(address: &Address) -> Result<(), ListenError> {
    let tried = match address {
        Address::Plain(at) | Address::Tls(at) => {
            socket(*at).and_then(|socket| socket.bind(&(*at).into()))
        }
        Address::Unix(path) => unix::check(path),
    };
    tried.map_err(|source| ListenError { address: address.clone(), source })
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
    open().map_err(|source| ListenError { address: address.into(), source })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_address_in_use_is_named() {
        // No other process uses ports of this address.
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let free = listen(SocketAddr::from(([127, 128 | high, middle, low], 0)), 8).unwrap();
        let address = free.local_addr().unwrap().as_socket().unwrap();
        for error in [listen(address, 8).unwrap_err(), check(&address.into()).unwrap_err()] {
            let error = error.to_string();
            assert!(
                error.starts_with(&format!("{address} is in use: stop what listens there")),
                "{error}"
            );
        }
        drop(free);
        check(&address.into()).unwrap();
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
