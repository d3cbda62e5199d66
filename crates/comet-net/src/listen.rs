//! Listening sockets: one per address and core, bound before any core starts.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

/// How listening sockets are made; accepted sockets inherit all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections the kernel keeps until they are accepted.
    pub backlog: i32,
    /// SO_SNDBUF, bytes; 0 lets the kernel tune it.
    pub sndbuf: usize,
    /// SO_RCVBUF, bytes; 0 lets the kernel tune it.
    pub rcvbuf: usize,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// TCP_NODELAY.
    pub nodelay: bool,
}

/// An address that could not be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// Which.
    pub address: SocketAddr,
    /// The kernel's words.
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
                write!(f, "{address} is no address of this host: bind one that is, or 0.0.0.0")
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

/// Binds `address` once for each of `cores`, with SO_REUSEPORT. Port 0 takes a free port, the same for
/// all; the address in use is returned.
///
/// # Errors
/// If the kernel refuses, or anybody listens there already: SO_REUSEPORT alone would share the port
/// with another process of the same user without a word.
pub fn bind(
    address: SocketAddr,
    cores: usize,
    options: &ListenOptions,
) -> Result<(SocketAddr, Vec<OwnedFd>), ListenError> {
    let failed = |source| ListenError { address, source };
    if address.port() != 0 {
        let alone = socket(address).map_err(failed)?;
        alone.bind(&address.into()).map_err(failed)?;
    }
    let mut bound = address;
    let mut listeners = Vec::with_capacity(cores);
    for _ in 0..cores {
        let listener = listen(bound, options).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        bound = local.as_socket().expect("an IP socket has an IP address");
        listeners.push(listener.into());
    }
    Ok((bound, listeners))
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can both be bound.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<Socket> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(options.nodelay)?;
    socket.set_keepalive(options.keepalive)?;
    // Buffers must be set before listen: the window scale is negotiated from them.
    if options.sndbuf > 0 {
        socket.set_send_buffer_size(options.sndbuf)?;
    }
    if options.rcvbuf > 0 {
        socket.set_recv_buffer_size(options.rcvbuf)?;
    }
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ListenOptions =
        ListenOptions { backlog: 16, sndbuf: 0, rcvbuf: 0, keepalive: false, nodelay: true };

    #[test]
    fn every_core_listens_on_one_port_and_nobody_else_may() {
        let any = "127.0.0.1:0".parse().unwrap();
        let (address, listeners) = bind(any, 3, &OPTIONS).unwrap();
        assert_eq!(listeners.len(), 3);
        assert_ne!(address.port(), 0);
        let error = bind(address, 1, &OPTIONS).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("is in use"), "{error}");
        drop(listeners);
        bind(address, 1, &OPTIONS).unwrap();
    }

    #[test]
    fn an_address_of_another_host_is_named() {
        let error = bind("192.0.2.1:9".parse().unwrap(), 1, &OPTIONS).unwrap_err();
        assert!(error.to_string().starts_with("192.0.2.1:9 is no address of this host"), "{error}");
    }
}
