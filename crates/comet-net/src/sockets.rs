//! The descriptors behind the shard's slots, and which operations on them are under way.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use comet_core::ConnId;

pub(crate) struct Socket {
    fd: OwnedFd,
    pub(crate) conn: ConnId,
    pub(crate) is_receiving: bool,
    pub(crate) is_sending: bool,
    /// The shard asked to shut both sides: gone once nothing is under way.
    pub(crate) is_closing: bool,
}

impl Socket {
    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
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

/// Indexed by slot. A socket is closed by removing it, after its last completion.
#[derive(Default)]
pub(crate) struct Sockets {
    sockets: Vec<Option<Socket>>,
}

impl Sockets {
    pub(crate) fn insert(&mut self, fd: OwnedFd, conn: ConnId) {
        let index = conn.slot as usize;
        if index >= self.sockets.len() {
            self.sockets.resize_with(index + 1, || None);
        }
        let socket = Socket { fd, conn, is_receiving: false, is_sending: false, is_closing: false };
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
