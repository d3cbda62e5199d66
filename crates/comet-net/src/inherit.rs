//! Listening sockets from another process, divided among the cores of this one. The numbers of cores may differ.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use comet_listen::ListenError as SocketError;
use socket2::Socket;

use crate::listen::{ListenError, ListenOptions, bound_socket, set_options};
use crate::steer;

/// The listening sockets of one address, taken over from another process.
#[derive(Debug)]
pub struct InheritedListeners {
    /// The address.
    pub address: SocketAddr,
    /// The sockets of each core. A core has several if the other process had more cores.
    pub cores: Vec<Vec<OwnedFd>>,
    /// The changes to make once no other process uses the sockets.
    pub unsettled: Unsettled,
}

/// Changes to the sockets that the other process would see too, while clients may still come to it.
#[derive(Debug)]
pub struct Unsettled {
    inherited: Vec<Socket>,
    /// These are bound but do not listen yet.
    added: Vec<Socket>,
    options: ListenOptions,
}

/// Divides `sockets`, which listen at one address, among `cores`. None is closed, because connections wait in their
/// backlogs. Cores without an inherited socket get a new one, which listens after [`Unsettled::settle`].
///
/// # Errors
/// If the kernel refuses.
///
/// # Panics
/// If there is no socket, or no core.
pub fn inherit(
    sockets: Vec<OwnedFd>,
    cores: usize,
    options: &ListenOptions,
) -> Result<InheritedListeners, ListenError> {
    let mut by_core: Vec<Vec<OwnedFd>> = (0..cores).map(|_| Vec::new()).collect();
    let sockets: Vec<Socket> = sockets.into_iter().map(Socket::from).collect();
    let local = |socket: &Socket| {
        socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    let unnamed = SocketAddr::from(([0, 0, 0, 0], 0));
    let failed = |address: SocketAddr| {
        move |source| ListenError::Listen(SocketError { address: address.into(), source })
    };
    let address = local(&sockets[0]).map_err(failed(unnamed))?;
    let (mut inherited, mut added) = (Vec::new(), Vec::new());
    for (at, socket) in sockets.into_iter().enumerate() {
        inherited.push(socket.try_clone().map_err(failed(address))?);
        by_core[at % cores].push(socket.into());
    }
    for core in by_core.iter_mut().filter(|core| core.is_empty()) {
        let socket = bound_socket(address, options).map_err(failed(address))?;
        added.push(socket.try_clone().map_err(failed(address))?);
        core.push(socket.into());
    }
    let unsettled = Unsettled { inherited, added, options: options.clone() };
    Ok(InheritedListeners { address, cores: by_core, unsettled })
}

impl Unsettled {
    /// Gives the sockets the options of this process. Added sockets begin to listen, and clients are steered to the
    /// cores of this process.
    ///
    /// # Errors
    /// The first failure. The other steps are done all the same.
    pub fn settle(self) -> io::Result<()> {
        let Self { inherited, added, options } = self;
        let mut done = Ok(());
        for socket in &inherited {
            done = done.and(set_options(socket, &options));
        }
        for socket in inherited.iter().chain(&added) {
            done = done.and(socket.listen(options.backlog));
        }
        let steered = match &options.steering {
            // The group numbers its sockets in the order in which they began to listen.
            Some(cpus) => steer::by_cpu(&inherited[0], cpus),
            // The former process's program knows only the sockets of its own cores.
            None => steer::by_hash(&inherited[0]),
        };
        done.and(steered)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::listen::bind;

    const OPTIONS: ListenOptions = ListenOptions {
        backlog: 128,
        sndbuf: 0,
        rcvbuf: 0,
        keepalive: None,
        user_timeout: None,
        nodelay: true,
        steering: None,
    };

    /// Hands the sockets to a different number of cores; every connection is accepted at one of the sockets.
    fn check(before: usize, after: usize, expected: &[usize]) {
        let (address, former) = bind("127.0.0.1:0".parse().unwrap(), before, &OPTIONS).unwrap();
        let handed = former.iter().map(|socket| socket.try_clone().unwrap()).collect();
        // These connections wait in the backlog of a former socket.
        let early: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        let InheritedListeners { address: at, cores, unsettled } =
            inherit(handed, after, &OPTIONS).unwrap();
        assert_eq!(at, address);
        assert_eq!(cores.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        unsettled.settle().unwrap();
        drop(former);
        let late: Vec<_> = (0..24).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut accepted = 0;
        for socket in cores.into_iter().flatten().map(Socket::from) {
            socket.set_nonblocking(true).unwrap();
            while socket.accept().is_ok() {
                accepted += 1;
            }
        }
        assert_eq!(accepted, early.len() + late.len());
    }

    #[test]
    fn each_core_has_a_socket_whatever_their_number() {
        check(1, 1, &[1]);
        check(2, 2, &[1, 1]);
        check(1, 3, &[1, 1, 1]);
        check(3, 2, &[2, 1]);
    }

    #[test]
    fn an_added_listener_gets_no_connection_before_it_is_settled() {
        let (address, former) = bind("127.0.0.1:0".parse().unwrap(), 1, &OPTIONS).unwrap();
        let handed = vec![former[0].try_clone().unwrap()];
        let inherited = inherit(handed, 2, &OPTIONS).unwrap();
        let clients: Vec<_> = (0..16).map(|_| TcpStream::connect(address).unwrap()).collect();
        // The new process fails here.
        drop(inherited);
        let former = Socket::from(former.into_iter().next().unwrap());
        former.set_nonblocking(true).unwrap();
        let accepted = std::iter::from_fn(|| former.accept().ok()).count();
        assert_eq!(accepted, clients.len());
    }

    /// The former process steers by CPU, to its own cores only.
    #[test]
    fn steering_ends_with_its_setting() {
        let steered = ListenOptions { steering: Some(vec![0]), ..OPTIONS };
        let (address, former) = bind("127.0.0.1:0".parse().unwrap(), 1, &steered).unwrap();
        let InheritedListeners { cores, unsettled, .. } = inherit(former, 2, &OPTIONS).unwrap();
        unsettled.settle().unwrap();
        let _clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        for socket in cores.into_iter().flatten().map(Socket::from) {
            socket.set_nonblocking(true).unwrap();
            socket.accept().expect("each core gets some");
        }
    }
}
