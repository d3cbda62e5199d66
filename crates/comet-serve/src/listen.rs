//! Listeners of servers that callers reach, as opposed to clients.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;

use comet_listen::{
    Address, Inherited, ListenError, NamedSocket, SocketFile, inherit_unix, listen_unix,
};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::socket::Socket;
use crate::start_error::StartError;
use crate::tls::ApiTls;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1_024;

/// The listeners of a setting.
#[derive(Debug)]
pub struct BoundListeners {
    /// In the order of their addresses in the configuration.
    pub listeners: Vec<Listener>,
    /// Their addresses, with real ports.
    pub addresses: Vec<Address>,
    /// Duplicates of their sockets, for another process.
    pub sockets: Vec<NamedSocket>,
}

/// A listening socket from which no connection is accepted yet.
#[derive(Debug)]
pub struct Listener(Kind<net::TcpListener, unix::UnixListener>);

/// A listening socket from which connections are accepted.
pub(crate) struct Accepting(Kind<TcpListener, UnixListener>);

#[derive(Debug)]
enum Kind<T, U> {
    Plain(T),
    Tls(T, ApiTls),
    Unix(U, SocketFile),
}

/// A caller's connection, before anything is read from it.
pub(crate) enum Incoming {
    /// Ready to be served.
    Open(Socket),
    /// It begins with a TLS handshake.
    Tls(TcpStream, ApiTls),
}

/// Listens at every address of `setting`, a key of the configuration; port 0 takes a free one. `tls` is for those with TLS.
///
/// # Errors
/// [`StartError::Listen`] names the first address that is in use or not available.
pub fn listen(
    setting: &'static str,
    addresses: &[Address],
    tls: &ApiTls,
) -> Result<BoundListeners, StartError> {
    listen_or_inherit(setting, addresses, tls, &Inherited::default())
}

/// The same, but takes the sockets that another process has handed over.
///
/// # Errors
/// As [`listen`].
pub fn listen_or_inherit(
    setting: &'static str,
    addresses: &[Address],
    tls: &ApiTls,
    inherited: &Inherited,
) -> Result<BoundListeners, StartError> {
    let mut bound =
        BoundListeners { listeners: Vec::new(), addresses: Vec::new(), sockets: Vec::new() };
    for (index, address) in addresses.iter().enumerate() {
        let former = inherited.take(setting, address).pop();
        let open = || {
            let (listener, at) = open(address, tls, former)?;
            let socket = NamedSocket::of((setting, index), address, listener.as_fd())
                .map_err(|source| ListenError { address: address.clone(), source })?;
            bound.listeners.push(listener);
            bound.addresses.push(at);
            bound.sockets.push(socket);
            Ok(())
        };
        open().map_err(|source| StartError::Listen { setting, source })?;
    }
    Ok(bound)
}

fn open(
    address: &Address,
    tls: &ApiTls,
    former: Option<OwnedFd>,
) -> Result<(Listener, Address), ListenError> {
    let (kind, at) = match address {
        Address::Plain(address) => {
            let (listener, at) = open_tcp(*address, former)?;
            (Kind::Plain(listener), Address::Plain(at))
        }
        Address::Tls(address) => {
            let (listener, at) = open_tcp(*address, former)?;
            (Kind::Tls(listener, tls.clone()), Address::Tls(at))
        }
        Address::Unix(path) => {
            let (socket, file) = match former {
                Some(former) => inherit_unix(path, former)?,
                None => listen_unix(path, BACKLOG)?,
            };
            socket
                .set_nonblocking(true)
                .map_err(|source| ListenError { address: address.clone(), source })?;
            (Kind::Unix(OwnedFd::from(socket).into(), file), address.clone())
        }
    };
    Ok((Listener(kind), at))
}

fn open_tcp(
    address: SocketAddr,
    former: Option<OwnedFd>,
) -> Result<(net::TcpListener, SocketAddr), ListenError> {
    let listener = match former {
        Some(former) => net::TcpListener::from(former),
        None => net::TcpListener::from(comet_listen::listen(address, BACKLOG)?),
    };
    let ready = || {
        listener.set_nonblocking(true)?;
        let at = listener.local_addr()?;
        Ok((listener, at))
    };
    ready().map_err(|source| ListenError { address: address.into(), source })
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Plain(listener) | Kind::Tls(listener, _) => listener.as_fd(),
            Kind::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// Registers the socket with the current runtime.
    pub(crate) fn accepting(self) -> io::Result<Accepting> {
        Ok(Accepting(match self.0 {
            Kind::Plain(listener) => Kind::Plain(TcpListener::from_std(listener)?),
            Kind::Tls(listener, tls) => Kind::Tls(TcpListener::from_std(listener)?, tls),
            Kind::Unix(listener, file) => Kind::Unix(UnixListener::from_std(listener)?, file),
        }))
    }
}

impl Incoming {
    /// Its peer, for the access log.
    pub(crate) fn peer(&self) -> String {
        let peer = match self {
            Self::Open(socket) => socket.peer(),
            Self::Tls(stream, _) => stream.peer_addr().map(|address| address.to_string()),
        };
        // The caller has left already.
        peer.unwrap_or_else(|_| "-".to_owned())
    }
}

impl Accepting {
    pub(crate) async fn accept(&self) -> io::Result<Incoming> {
        Ok(match &self.0 {
            Kind::Plain(listener) => {
                let mut stream = listener.accept().await?.0;
                no_delay(&mut stream);
                Incoming::Open(Socket::Tcp(stream))
            }
            Kind::Tls(listener, tls) => {
                let mut stream = listener.accept().await?.0;
                no_delay(&mut stream);
                Incoming::Tls(stream, tls.clone())
            }
            Kind::Unix(listener, _) => Incoming::Open(Socket::Unix(listener.accept().await?.0)),
        })
    }

    /// Whether callers send a host name that a web page could choose (DNS rebinding).
    pub(crate) fn has_host(&self) -> bool {
        // A browser reaches no Unix socket, and over TLS it expects a certificate for the page's name.
        matches!(self.0, Kind::Plain(_))
    }
}

/// Sends written bytes at once: a reply is one small segment that must not wait for the next.
fn no_delay(stream: &mut TcpStream) {
    // A socket that refuses has already failed, and the first read reports it.
    let _ = stream.set_nodelay(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_named_with_its_setting() {
        let free =
            listen("some.key", &["127.0.0.1:0".parse().unwrap()], &ApiTls::default()).unwrap();
        let address = free.addresses[0].socket().unwrap();
        assert_ne!(address.port(), 0);
        for taken in [Address::Plain(address), Address::Tls(address)] {
            assert_eq!(
                listen("some.key", &[taken], &ApiTls::default()).unwrap_err().to_string(),
                format!("some.key: {}", comet_listen::listen(address, 1).unwrap_err())
            );
        }
    }
}
