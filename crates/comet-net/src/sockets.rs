//! The descriptors behind the shard's slots, and which operations on them are under way.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use comet_core::ConnId;
use rustix::net::{SendFlags, getpeername, send};

use crate::layers::Front;
use crate::tls::TlsSession;

pub(crate) struct Socket {
    fd: OwnedFd,
    pub(crate) conn: ConnId,
    pub(crate) is_receiving: bool,
    pub(crate) is_sending: bool,
    /// The shard asked to shut both sides: gone once nothing is under way.
    pub(crate) is_closing: bool,
    /// All that is to be sent is known: shut our side when it is out.
    pub(crate) is_ending: bool,
    /// PROXY header and TLS, where the connection has them.
    pub(crate) front: Option<Box<Front>>,
}

/// A part of the budget of every connection, idle or not.
const _: () = assert!(size_of::<Option<Socket>>() <= 32);

impl Socket {
    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn tls(&mut self) -> Option<&mut TlsSession> {
        self.front.as_mut()?.tls()
    }

    /// Whom the connection comes from, as far as is known.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.front.as_ref().and_then(|front| front.peer()).or_else(|| peer(self))
    }

    /// Before both sides are shut: the alert, or the answer to the peer's, as far as the kernel takes it
    /// at once. Nobody waits for it.
    pub(crate) fn say_last(&mut self) {
        if self.is_sending {
            return;
        }
        let Some(tls) = self.front.as_mut().and_then(|front| front.tls()) else {
            return;
        };
        tls.close();
        if let Some(bytes) = tls.transmit() {
            let _ = send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        let had_transmit = tls.fail();
        debug_assert!(!had_transmit, "a transmit is under way as soon as it is sealed");
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_closing && !self.is_receiving && !self.is_sending
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The other end of a socket.
pub(crate) fn peer(socket: impl AsFd) -> Option<SocketAddr> {
    getpeername(socket).ok().flatten().and_then(|address| address.try_into().ok())
}

/// Indexed by slot. A socket is closed by removing it, after its last completion.
#[derive(Default)]
pub(crate) struct Sockets {
    sockets: Vec<Option<Socket>>,
}

impl Sockets {
    pub(crate) fn insert(&mut self, fd: OwnedFd, conn: ConnId, front: Option<Box<Front>>) {
        let index = conn.slot as usize;
        if index >= self.sockets.len() {
            self.sockets.resize_with(index + 1, || None);
        }
        let socket = Socket {
            fd,
            conn,
            is_receiving: false,
            is_sending: false,
            is_closing: false,
            is_ending: false,
            front,
        };
        let former = self.sockets[index].replace(socket);
        assert!(former.is_none(), "a slot is not reused before its socket is gone");
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Socket> {
        self.sockets.get(slot as usize)?.as_ref()
    }

    /// # Panics
    /// If there is no socket: the shard and the kernel name only sockets that are there.
    pub(crate) fn at(&mut self, slot: u32) -> &mut Socket {
        self.sockets[slot as usize].as_mut().expect("a socket until its last completion")
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        self.sockets[slot as usize] = None;
    }
}
