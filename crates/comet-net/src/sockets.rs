//! The sockets of a core by slot, and which operations on them are in flight.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use comet_core::{ConnId, Hangup, Slot, SocketInfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};

use crate::acks::acks;
use crate::layers::ProtocolLayers;
use crate::peer_name::peer_name;
use crate::tls::TlsSession;

pub(crate) struct Socket {
    fd: OwnedFd,
    pub(crate) conn: ConnId,
    pub(crate) is_receiving: bool,
    pub(crate) is_sending: bool,
    /// The shard has asked to shut both sides. The socket is freed once no operation is in flight.
    pub(crate) is_shut: bool,
    /// The last ciphertext is queued. The write side is shut once it is sent.
    pub(crate) shuts_write_when_flushed: bool,
    /// Bytes acknowledged by the peer (see [`crate::acks::Acks`]) when the deadline of the send in flight was last checked. 0: it
    /// was not checked yet.
    acked: u32,
    /// PROXY header and TLS, if the connection has them.
    pub(crate) layers: Option<Box<ProtocolLayers>>,
}

/// Part of the memory budget of every connection, idle or not.
const _: () = assert!(size_of::<Option<Socket>>() <= 32);

/// Whether a peer takes bytes, while the kernel has no space for more of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AckProgress {
    /// It has acknowledged more than at the last check.
    Advanced,
    /// It may have done so within the time.
    Recent,
    None,
}

impl Socket {
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn tls(&mut self) -> Option<&mut TlsSession> {
        self.layers.as_mut()?.tls()
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.layers.as_ref().is_some_and(|layers| layers.has_tls())
    }

    /// The peer's address: from the PROXY header if there is one, otherwise the socket's.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.layers.as_ref().and_then(|layers| layers.peer()).or_else(|| peer_name(self))
    }

    /// Sends the TLS alert that ends the connection, or that answers the peer's, before both sides are shut. Best
    /// effort: bytes that the kernel does not take at once are dropped.
    pub(crate) fn send_last_alert(&mut self) {
        if self.is_sending {
            return;
        }
        let Some(tls) = self.layers.as_mut().and_then(|layers| layers.tls()) else {
            return;
        };
        if tls.has_transmit() {
            // A frozen core keeps the transmit, and the alert would have to follow it.
            return;
        }
        tls.close();
        if let Some(bytes) = tls.poll_transmit() {
            let _ = send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        let had_transmit = tls.handle_send_failed();
        debug_assert!(!had_transmit, "an encrypted transmit is in flight at once");
    }

    /// Whether the kernel has unread input of the peer or could continue the send in flight, or a deferred TLS
    /// handshake waits for its turn.
    pub(crate) fn has_backlog(&mut self) -> bool {
        if self.tls().is_some_and(|tls| tls.is_deferred()) {
            return true;
        }
        let mut events = PollFlags::IN;
        events.set(PollFlags::OUT, self.is_sending);
        let mut socket = [PollFd::from_borrowed_fd(self.fd.as_fd(), events)];
        poll(&mut socket, Some(&Timespec::default())) != Ok(0)
    }

    /// Whether the peer has acknowledged bytes within `write_timeout`, while a send waits. The kernel has space for
    /// that send only once a third of its buffer is free (`sk_stream_is_writable` in include/net/sock.h), so a peer behind a slow
    /// link takes bytes for many seconds before the send continues.
    pub(crate) fn ack_progress(&mut self, write_timeout: Duration) -> AckProgress {
        if !self.is_sending {
            return AckProgress::None;
        }
        let Ok(acks) = acks(&self.fd) else { return AckProgress::None };
        let former = std::mem::replace(&mut self.acked, acks.bytes);
        match former != 0 && former != acks.bytes {
            true => AckProgress::Advanced,
            false if acks.silence < write_timeout => AckProgress::Recent,
            false => AckProgress::None,
        }
    }

    /// The send in flight has completed.
    pub(crate) fn end_send(&mut self) {
        self.is_sending = false;
        self.acked = 0;
    }

    /// Both sides are to be shut, and the last operation has completed.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_shut && !self.is_receiving && !self.is_sending
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Turns the error number of a failed socket into its end: the peer or the network cut the connection, or something
/// else went wrong.
pub(crate) fn failed(error: i32) -> Hangup {
    match error {
        libc::ECONNRESET
        | libc::EPIPE
        | libc::ENOTCONN
        | libc::ECONNABORTED
        | libc::ETIMEDOUT
        | libc::EHOSTDOWN
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::ENETUNREACH
        | libc::ENETRESET => Hangup::Cut(error),
        _ => Hangup::Error(error),
    }
}

/// The sockets, indexed by slot. Removing a socket closes it, so it is removed only after its last completion.
#[derive(Default)]
pub(crate) struct Sockets {
    chunks: Vec<Box<[Option<Socket>]>>,
}

/// Sockets are allocated in chunks, so that a million of them are never copied in one step.
const CHUNK: usize = 1024;

impl Sockets {
    pub(crate) fn insert(
        &mut self,
        fd: OwnedFd,
        conn: ConnId,
        layers: Option<Box<ProtocolLayers>>,
    ) {
        let index = conn.slot.0 as usize;
        while index >= self.chunks.len() * CHUNK {
            self.chunks.push((0..CHUNK).map(|_| None).collect());
        }
        let socket = Socket {
            fd,
            conn,
            is_receiving: false,
            is_sending: false,
            is_shut: false,
            shuts_write_when_flushed: false,
            acked: 0,
            layers,
        };
        let former = self.chunks[index / CHUNK][index % CHUNK].replace(socket);
        assert!(former.is_none(), "a slot is not reused before its socket is gone");
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Socket> {
        let index = slot.0 as usize;
        self.chunks.get(index / CHUNK)?[index % CHUNK].as_ref()
    }

    /// # Panics
    /// If the slot has no socket: the shard and the kernel name a slot only until its last
    /// completion.
    pub(crate) fn at(&mut self, slot: Slot) -> &mut Socket {
        let index = slot.0 as usize;
        let socket = self.chunks[index / CHUNK][index % CHUNK].as_mut();
        socket.expect("a socket until its last completion")
    }

    /// All open sockets.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Socket> {
        self.chunks.iter().flatten().flatten()
    }

    /// The socket of `conn`, unless it is gone.
    fn of(&self, conn: ConnId) -> Option<&Socket> {
        self.get(conn.slot).filter(|socket| socket.conn == conn)
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        let index = slot.0 as usize;
        self.chunks[index / CHUNK][index % CHUNK] = None;
    }
}

impl SocketInfo for Sockets {
    fn address(&mut self, conn: ConnId) -> Option<SocketAddr> {
        self.of(conn).and_then(Socket::peer)
    }

    fn is_tls(&mut self, conn: ConnId) -> bool {
        self.of(conn).is_some_and(Socket::is_tls)
    }
}
