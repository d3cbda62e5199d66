//! The address of the other end of a socket, also after that end has reset the connection.
#![allow(unsafe_code, reason = "no safe binding has this socket option")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::SockAddr;

/// The peer's address. getpeername(2) returns none once the peer has reset the connection. SO_PEERNAME returns the
/// address that accept(2) gave, until the socket is closed.
pub(crate) fn peer_name(socket: impl AsFd) -> Option<SocketAddr> {
    let socket = socket.as_fd();
    // The kernel refuses a buffer that is longer than the address.
    let [ipv6, ipv4] = [size_of::<libc::sockaddr_in6>(), size_of::<libc::sockaddr_in>()];
    name_of(socket, ipv6).or_else(|_| name_of(socket, ipv4)).ok()?.as_socket()
}

fn name_of(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<SockAddr> {
    // SAFETY: the kernel writes at most `bytes` of an address to `storage`, which has space for any address, and the
    // length of the address to `length`.
    let name = unsafe {
        SockAddr::try_init(|storage, length| {
            *length = bytes as libc::socklen_t;
            let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERNAME);
            match libc::getsockopt(socket.as_raw_fd(), level, option, storage.cast(), length) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    };
    name.map(|((), name)| name)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};
    use socket2::SockRef;

    use super::*;

    #[test]
    fn the_name_stays_after_a_reset() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let name = peer.local_addr().unwrap();
            SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            let (accepted, _) = listener.accept().unwrap();
            let mut reset = [PollFd::new(&accepted, PollFlags::empty())];
            poll(&mut reset, None).unwrap();
            assert!(reset[0].revents().contains(PollFlags::HUP));
            accepted.peer_addr().expect_err("the peer has reset it");
            assert_eq!(peer_name(&accepted), Some(name));
        }
    }
}
