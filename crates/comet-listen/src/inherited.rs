//! Listening sockets from another process, by the name that the configuration gives them.

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Address;

/// A listening socket and its name. Several may have one name.
#[derive(Debug)]
pub struct NamedSocket {
    /// The key of the configuration that names the address.
    pub setting: String,
    /// The index among the addresses of that key.
    pub index: usize,
    /// The address as it is configured: port 0 stays 0.
    pub address: Address,
    /// The socket, or a duplicate of it.
    pub socket: OwnedFd,
}

impl NamedSocket {
    /// A duplicate of `socket` under its name.
    ///
    /// # Errors
    /// If the process may have no more files.
    pub fn of(
        (setting, index): (&str, usize),
        address: &Address,
        socket: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let (setting, address) = (setting.to_owned(), address.clone());
        Ok(Self { setting, index, address, socket: socket.try_clone_to_owned()? })
    }
}

impl AsFd for NamedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The names of `sockets` in the form that [`Inherited::new`] reads: one line each.
pub fn names<'a>(sockets: impl IntoIterator<Item = &'a NamedSocket>) -> String {
    let mut names = String::new();
    for NamedSocket { setting, index, address, .. } in sockets {
        let _ = writeln!(names, "{setting} {index} {address}");
    }
    names
}

/// The listening sockets that another process has handed over. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Inherited(Arc<Mutex<Vec<NamedSocket>>>);

impl Inherited {
    /// The sockets of [`names`], in the same order.
    ///
    /// # Errors
    /// If the names are malformed, or do not match the sockets.
    pub fn new(names: &str, sockets: Vec<OwnedFd>) -> Result<Self, String> {
        let lines: Vec<&str> = names.lines().collect();
        if lines.len() != sockets.len() {
            return Err(format!("{} names for {} listeners", lines.len(), sockets.len()));
        }
        let named = lines.into_iter().zip(sockets).map(|(line, socket)| {
            let none = || format!("no name of a listener: {line:?}");
            let mut words = line.splitn(3, ' ');
            let mut next = || words.next().ok_or_else(none);
            let setting = next()?.to_owned();
            let index = next()?.parse().map_err(|_| none())?;
            let address = next()?.parse().map_err(|_| none())?;
            Ok(NamedSocket { setting, index, address, socket })
        });
        Ok(Self(Arc::new(Mutex::new(named.collect::<Result<_, String>>()?))))
    }

    /// Whether there is a socket for an address of `setting`.
    #[must_use]
    pub fn has(&self, setting: &str, address: &Address) -> bool {
        self.with(|sockets| sockets.iter().any(|socket| is_named(socket, setting, address)))
    }

    /// Takes all sockets of one address of `setting`, in their order; empty if none is left.
    #[must_use]
    pub fn take(&self, setting: &str, address: &Address) -> Vec<OwnedFd> {
        self.with(|sockets| {
            let first = sockets.iter().find(|socket| is_named(socket, setting, address));
            let Some(index) = first.map(|socket| socket.index) else { return Vec::new() };
            let is_of = |socket: &mut NamedSocket| {
                socket.index == index && is_named(socket, setting, address)
            };
            sockets.extract_if(.., is_of).map(|named| named.socket).collect()
        })
    }

    fn with<T>(&self, task: impl FnOnce(&mut Vec<NamedSocket>) -> T) -> T {
        task(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn is_named(socket: &NamedSocket, setting: &str, address: &Address) -> bool {
    socket.setting == setting && socket.address == *address
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn socket() -> (u16, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap().port(), listener.into())
    }

    fn port(socket: OwnedFd) -> u16 {
        TcpListener::from(socket).local_addr().unwrap().port()
    }

    #[test]
    fn sockets_are_found_by_their_names() {
        let any: Address = "127.0.0.1:0".parse().unwrap();
        let tls: Address = "tls:127.0.0.1:0".parse().unwrap();
        let (mut ports, mut named) = (Vec::new(), Vec::new());
        for (index, address) in [(0, &any), (0, &any), (1, &any), (2, &tls)] {
            let (port, socket) = socket();
            ports.push(port);
            named.push(NamedSocket::of(("tcp.bind", index), address, socket.as_fd()).unwrap());
        }
        let names = names(&named);
        let sockets: Vec<OwnedFd> = named.into_iter().map(|named| named.socket).collect();
        let inherited = Inherited::new(&names, sockets).unwrap();
        assert!(inherited.has("tcp.bind", &any) && !inherited.has("websocket.bind", &any));
        let take =
            |address| inherited.take("tcp.bind", address).into_iter().map(port).collect::<Vec<_>>();
        assert_eq!(take(&any), ports[..2]);
        assert_eq!(take(&any), ports[2..3]);
        assert_eq!(take(&tls), ports[3..]);
        assert_eq!(take(&tls), []);
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for names in ["", "tcp.bind 0\n", "tcp.bind x 127.0.0.1:0\n", "tcp.bind 0 nowhere\n"] {
            let sockets = vec![socket().1];
            Inherited::new(names, sockets).unwrap_err();
        }
    }
}
