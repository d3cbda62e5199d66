//! The steps that serve push callers connected to this core. Their sockets are kept apart from those of clients.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{io, mem};

use comet_core::{CallerOperation, CallerSlot};
use comet_logic::Authenticator;
use rustix::net::{SendFlags, Shutdown, send, shutdown, sockopt};

use super::Driver;
use crate::ids::ListenerIndex;
use crate::ring::{self, Completion, Operation};

/// How soon a failed accept is submitted again.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The listeners for push callers, and the sockets of connected callers by slot.
pub(super) struct Callers {
    listeners: Vec<OwnedFd>,
    /// Listeners whose multishot accept must be submitted again, not before `rearm_at`.
    to_rearm: Vec<ListenerIndex>,
    rearm_at: Instant,
    sockets: Vec<Option<Socket>>,
    /// Callers whose receive or send a freeze has cancelled. Until the thaw these count as under way, and the shard
    /// waits for them.
    cancelled_receives: Vec<CallerSlot>,
    cancelled_sends: Vec<CallerSlot>,
    /// Callers turned away for a missing or wrong token: their count at the latest log line, and the time of that line.
    unauthenticated: (u64, Option<Instant>),
}

/// Time between two log lines about callers without a valid token; all such callers are counted.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// Most bytes received from a caller at once: a few hundred small pushes.
const RECV_BYTES: usize = 32 << 10;

struct Socket {
    fd: OwnedFd,
    /// The kernel writes to it while a receive is under way.
    buffer: Box<[u8]>,
    /// The bytes of the send in flight; the shard keeps them at this address.
    sent: Option<*const [u8]>,
    is_receiving: bool,
    is_sending: bool,
    is_closed: bool,
}

impl Callers {
    pub(super) fn new(listeners: Vec<OwnedFd>, now: Instant) -> Self {
        let to_rearm = (0..).map(ListenerIndex).zip(&listeners).map(|(index, _)| index).collect();
        Self {
            listeners,
            to_rearm,
            rearm_at: now,
            sockets: Vec::new(),
            cancelled_receives: Vec::new(),
            cancelled_sends: Vec::new(),
            unauthenticated: (0, None),
        }
    }

    fn at(&mut self, slot: CallerSlot) -> &mut Socket {
        let socket = self.sockets[usize::from(slot.0)].as_mut();
        socket.expect("a socket until its last completion")
    }

    /// Operations in flight.
    pub(super) fn operations(&self) -> impl Iterator<Item = Operation> {
        let listeners = (0..).map(ListenerIndex).zip(&self.listeners);
        let accepts = listeners.map(|(index, _)| Operation::AcceptCaller(index));
        let sockets = (0..).map(CallerSlot).zip(&self.sockets);
        let sockets = sockets.filter_map(|(slot, socket)| Some((slot, socket.as_ref()?)));
        accepts.chain(sockets.flat_map(|(slot, socket)| {
            let receive = socket.is_receiving.then_some(Operation::RecvCaller(slot));
            let send = socket.is_sending.then_some(Operation::SendCaller(slot));
            [receive, send].into_iter().flatten()
        }))
    }

    /// The descriptors that become readable when a caller connects or sends something.
    pub(super) fn awaited(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let sockets = self.sockets.iter().flatten().filter(|socket| socket.is_receiving);
        let listeners = self.listeners.iter().map(OwnedFd::as_fd);
        listeners.chain(sockets.map(|socket| socket.fd.as_fd()))
    }
}

impl<A: Authenticator> Driver<A> {
    /// Submits the accepts that have ended or were not submitted yet.
    pub(super) fn rearm_caller_accepts(&mut self) {
        if self.callers.to_rearm.is_empty() {
            return;
        }
        if Instant::now() < self.callers.rearm_at {
            self.must_retry = true;
            return;
        }
        for index in mem::take(&mut self.callers.to_rearm) {
            self.ring.accept_caller(self.callers.listeners[index.index()].as_raw_fd(), index);
        }
    }

    pub(super) fn handle_caller_accepted(&mut self, index: ListenerIndex, completion: Completion) {
        if !completion.more {
            self.callers.to_rearm.push(index);
        }
        match completion.result {
            Ok(fd) => {
                let fd = ring::accepted(fd);
                // A reply is one small segment that must not wait for the next. A Unix socket has no such option; the
                // error is ignored.
                let _ = sockopt::set_tcp_nodelay(&fd, true);
                let Some(slot) = self.shard.handle_caller_accept() else { return };
                let index = usize::from(slot.0);
                if index >= self.callers.sockets.len() {
                    self.callers.sockets.resize_with(index + 1, || None);
                }
                let buffer = vec![0; RECV_BYTES].into_boxed_slice();
                let socket = Socket {
                    fd,
                    buffer,
                    sent: None,
                    is_receiving: false,
                    is_sending: false,
                    is_closed: false,
                };
                let former = self.callers.sockets[index].replace(socket);
                assert!(former.is_none(), "a slot is not reused before its socket is gone");
            }
            Err(libc::ECONNABORTED | libc::ECANCELED) => {}
            Err(error) => {
                self.shard.handle_accept_failed();
                self.callers.rearm_at = Instant::now() + ACCEPT_RETRY;
                let (core, error) = (self.shard.id().0, io::Error::from_raw_os_error(error));
                log::warn!("core {core}: a push caller cannot be accepted: {error}");
            }
        }
    }

    /// Submits again the operations that a freeze cancelled.
    pub(super) fn rearm_callers(&mut self) {
        for slot in mem::take(&mut self.callers.cancelled_receives) {
            self.receive_from_caller(slot);
        }
        for slot in mem::take(&mut self.callers.cancelled_sends) {
            if let Some(bytes) = self.callers.at(slot).sent {
                self.send_to_caller(slot, bytes);
            }
        }
    }

    fn receive_from_caller(&mut self, slot: CallerSlot) {
        let socket = self.callers.at(slot);
        socket.is_receiving = true;
        let buffer: *mut [u8] = &raw mut *socket.buffer;
        self.ring.recv_caller(socket.fd.as_raw_fd(), slot, buffer);
    }

    fn send_to_caller(&mut self, slot: CallerSlot, bytes: *const [u8]) {
        let socket = self.callers.at(slot);
        socket.is_sending = true;
        socket.sent = Some(bytes);
        self.ring.send_caller(socket.fd.as_raw_fd(), slot, bytes);
    }

    pub(super) fn handle_caller_received(&mut self, slot: CallerSlot, result: Result<u32, i32>) {
        let socket = self.callers.at(slot);
        if result == Err(libc::ECANCELED) && !socket.is_closed {
            socket.is_receiving = false;
            match self.is_frozen {
                true => self.callers.cancelled_receives.push(slot),
                // The core thawed before the cancelled operation ended.
                false => self.receive_from_caller(slot),
            }
            return;
        }
        let socket = self.callers.at(slot);
        socket.is_receiving = false;
        match result {
            Ok(0) => self.shard.handle_caller_end(slot),
            Ok(length) => self.shard.handle_caller_recv(slot, &socket.buffer[..length as usize]),
            Err(_) => self.shard.handle_caller_failed(slot),
        }
        self.free_caller_if_gone(slot);
    }

    pub(super) fn handle_caller_sent(&mut self, slot: CallerSlot, result: Result<u32, i32>) {
        let socket = self.callers.at(slot);
        if result == Err(libc::ECANCELED) && !socket.is_closed {
            socket.is_sending = false;
            match (self.is_frozen, socket.sent) {
                (false, Some(bytes)) => self.send_to_caller(slot, bytes),
                _ => self.callers.cancelled_sends.push(slot),
            }
            return;
        }
        self.callers.at(slot).is_sending = false;
        match result {
            Ok(bytes) => self.shard.handle_caller_sent(slot, bytes as usize),
            Err(_) => self.shard.handle_caller_failed(slot),
        }
        self.free_caller_if_gone(slot);
    }

    /// Performs the socket operations that the shard asks for.
    pub(super) fn serve_callers(&mut self) {
        self.log_unauthenticated();
        while let Some((slot, operation)) = self.shard.poll_caller() {
            let socket = self.callers.at(slot);
            match operation {
                CallerOperation::Receive => self.receive_from_caller(slot),
                CallerOperation::Send(bytes) => {
                    let bytes: *const [u8] = bytes;
                    self.send_to_caller(slot, bytes);
                }
                // ENOTCONN is possible: the peer has reset the connection.
                CallerOperation::ShutWrite => drop(shutdown(&socket.fd, Shutdown::Write)),
                CallerOperation::Close => {
                    socket.is_closed = true;
                    if socket.is_receiving || socket.is_sending {
                        let _ = shutdown(&socket.fd, Shutdown::Both);
                    }
                    self.free_caller_if_gone(slot);
                }
            }
        }
    }

    /// Logs from time to time that callers without a valid token were turned away.
    fn log_unauthenticated(&mut self) {
        let (logged, at) = self.callers.unauthenticated;
        let ended = self.shard.callers_unauthenticated();
        if ended > logged && at.is_none_or(|at| at.elapsed() >= LOG_PAUSE) {
            self.callers.unauthenticated = (ended, Some(Instant::now()));
            let core = self.shard.id().0;
            log::warn!(
                "core {core}: push.frames: callers without a token that opens: {ended} so far"
            );
        }
    }

    fn free_caller_if_gone(&mut self, slot: CallerSlot) {
        let Socket { is_receiving, is_sending, is_closed, .. } = *self.callers.at(slot);
        if is_closed && !is_receiving && !is_sending {
            self.callers.sockets[usize::from(slot.0)] = None;
            self.shard.handle_caller_gone(slot);
        }
    }

    /// Answers the requests received so far, because the core ends. Bytes that a socket does not take at once are
    /// dropped.
    pub(super) fn finish_callers(&mut self) {
        for (slot, rest) in self.shard.finish_callers() {
            let socket = self.callers.at(slot);
            for bytes in rest.into_iter().filter(|bytes| !bytes.is_empty()) {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                if send(&socket.fd, bytes, flags) != Ok(bytes.len()) {
                    break;
                }
            }
        }
    }
}
