//! The steps that accept connections and receive their bytes, through protocol layers where there
//! are any.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use comet_core::{ConnId, Hangup, Slot};
use comet_logic::Authenticator;

use super::Driver;
use super::accept_rate::{ArmStep, Armed};
use crate::ids::ListenerIndex;
use crate::layers::{ProtocolLayers, Received};
use crate::peer_name::peer_name;
use crate::ring::{self, Completion};
use crate::sockets::failed;
use crate::tls::TlsSession;

/// How soon a failed accept is submitted again. Most failures come from exhausted descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Most handshakes that one turn continues, if it has time. Each takes some 100 us. When many clients reconnect at once,
/// connected clients get their pushes and replies in between.
const HANDSHAKES_A_TURN: usize = 8;

impl<A: Authenticator> Driver<A> {
    pub(super) fn handle_accepted(&mut self, index: ListenerIndex, completion: Completion) {
        let armed = &mut self.armed_accepts[index.index()];
        // Connections that a multishot accept took before it was cancelled are not counted.
        let is_limited = *armed != Armed::Multishot;
        if !completion.more {
            armed.end();
        }
        let listener = &self.listeners[index.index()];
        match completion.result {
            Ok(fd) => {
                let fd = ring::accepted(fd);
                if let Some(conn) = self.shard.handle_accept(listener.transport) {
                    let slot = conn.slot;
                    let tls = listener.tls.as_ref();
                    let tls = tls.map(|tls| TlsSession::new(&tls.config(listener.transport)));
                    let needs_address = self.shard.limits().needs_addresses();
                    // The address costs a system call, so it is read only where it is needed.
                    let peer = (needs_address || listener.proxy_from.is_some())
                        .then(|| peer_name(&fd))
                        .flatten();
                    let awaits_header = listener.proxy_from.as_ref().is_some_and(|proxies| {
                        peer.is_some_and(|peer| proxies.contains(peer.ip()))
                    });
                    // Behind a proxy the client's address comes in the header.
                    if needs_address
                        && !awaits_header
                        && let Some(peer) = peer
                    {
                        self.shard.handle_source(conn, peer.ip());
                    }
                    let raw_fd = fd.as_raw_fd();
                    self.sockets.insert(fd, conn, ProtocolLayers::new(awaits_header, tls));
                    if self.is_frozen {
                        self.to_receive.push(slot);
                    } else {
                        self.ring.recv(raw_fd, slot);
                        self.sockets.at(slot).is_receiving = true;
                    }
                }
                if is_limited {
                    self.count_accept();
                }
            }
            Err(libc::ECONNABORTED) => {}
            // The rate has changed, or an upgrade has begun.
            Err(libc::ECANCELED) => {}
            Err(error) if self.shard.is_draining() => {
                log::debug!("core {}: accept ended: error {error}", self.shard.id().0);
            }
            Err(error) => {
                self.shard.handle_accept_failed();
                let now = Instant::now();
                // The other accepts in flight fail as well; one line is logged for all.
                if now >= self.rearm_accepts_at {
                    let error = io::Error::from_raw_os_error(error);
                    log::warn!("core {}: accept failed: {error}", self.shard.id().0);
                }
                self.rearm_accepts_at = now + ACCEPT_RETRY;
            }
        }
    }

    /// Counts an accepted connection.
    fn count_accept(&mut self) {
        let rate = self.shard.limits().accept_rate;
        if rate > 0 && !self.is_frozen && self.accept_limiter.count(Instant::now(), rate) {
            self.shard.handle_accepts_paused();
        }
    }

    /// Submits accepts: those that ended by themselves, and as many as [`Limits::accept_rate`](comet_core::Limits::accept_rate)
    /// allows.
    pub(super) fn rearm_accepts(&mut self) {
        let rate = self.shard.limits().accept_rate;
        let is_complete = rate == 0 && self.armed_accepts.iter().all(|&armed| armed != Armed::NONE);
        if is_complete || self.shard.is_draining() || self.has_stopped_accepts {
            return;
        }
        let now = Instant::now();
        if now < self.rearm_accepts_at {
            self.must_retry = true;
            return;
        }
        let mut quota = None;
        if rate > 0 {
            quota = self.accept_limiter.quota(now, rate, self.listeners.len());
            if quota.is_none() {
                self.must_retry = true;
                return;
            }
        }
        let listeners = (0..).map(ListenerIndex).zip(&self.listeners);
        for ((index, listener), armed) in listeners.zip(&mut self.armed_accepts) {
            let socket = listener.socket.as_raw_fd();
            match armed.next_step(quota) {
                ArmStep::None => {}
                ArmStep::Multishot => {
                    *armed = Armed::Multishot;
                    self.ring.accept_all(socket, index);
                }
                ArmStep::Single(more) => {
                    armed.arm(more);
                    (0..more).for_each(|_| self.ring.accept_one(socket, index));
                }
                ArmStep::Cancel => self.ring.cancel_accepts(index),
            }
        }
    }

    pub(super) fn handle_received(&mut self, slot: Slot, completion: Completion) {
        let socket = self.sockets.at(slot);
        socket.is_receiving = completion.more;
        let conn = socket.conn;
        match completion.result {
            Ok(0) => self.handle_end(conn, Hangup::Eof),
            Ok(length) => {
                let buffer = completion.buffer.expect("a receive with bytes names its buffer");
                let bytes = self.buffers.filled(buffer, length as usize);
                let received = match &mut socket.layers {
                    None => {
                        self.shard.handle_recv(conn, bytes);
                        None
                    }
                    Some(layers) => {
                        let shard = &mut self.shard;
                        let awaited_header = layers.awaits_header();
                        let rest = layers.read_header(bytes);
                        if awaited_header
                            && !layers.awaits_header()
                            && let Some(client) = layers.peer()
                        {
                            // The source may be blocked. Then nothing of the connection is read.
                            shard.handle_source(conn, client.ip());
                        }
                        Some(rest.and_then(|rest| {
                            layers.handle_recv(rest, |plaintext| shard.handle_recv(conn, plaintext))
                        }))
                    }
                };
                self.buffers.offer(buffer);
                if !completion.more {
                    self.to_receive.push(slot);
                }
                match received {
                    None => {}
                    // The TLS layer may have queued bytes of its own.
                    Some(Ok(Received::Processed)) => self.send_ciphertext(slot),
                    Some(Ok(Received::HandshakeDeferred)) => {
                        self.pending_handshakes.push_back(conn);
                    }
                    Some(Err(hangup)) => self.abort(conn, hangup),
                }
            }
            Err(libc::ENOBUFS) => {
                self.to_receive.push(slot);
                self.free_if_gone(conn);
            }
            Err(error) => self.handle_end(conn, failed(error)),
        }
    }

    /// Handles the end of the stream. Bytes that came after our part of a handshake are processed first: a client that
    /// refuses the certificate sends an alert and leaves.
    fn handle_end(&mut self, conn: ConnId, end: Hangup) {
        let shard = &mut self.shard;
        if let Some(layers) = &mut self.sockets.at(conn.slot).layers
            && layers.has_answered()
            && let Err(hangup) =
                layers.continue_handshake(|plaintext| shard.handle_recv(conn, plaintext))
        {
            return self.abort(conn, hangup);
        }
        self.hang_up(conn, end);
    }

    /// Submits receives that ended because no receive buffer was free, or in a freeze. The buffers of this
    /// turn's completions are free by now.
    pub(super) fn rearm_receives(&mut self) {
        for slot in std::mem::take(&mut self.to_receive) {
            if let Some(socket) = self.sockets.get(slot).filter(|socket| !socket.is_receiving) {
                self.ring.recv(socket.raw_fd(), slot);
                self.sockets.at(slot).is_receiving = true;
            }
        }
    }

    /// Runs deferred handshakes, up to a bound per turn. None is computed for a connection that was
    /// closed while it waited.
    pub(super) fn continue_handshakes(&mut self) {
        let mut computed = 0;
        while computed < HANDSHAKES_A_TURN
            && let Some(conn) = self.pending_handshakes.pop_front()
        {
            if !self.shard.is_open(conn) {
                continue;
            }
            computed += 1;
            let slot = conn.slot;
            let shard = &mut self.shard;
            let layers = self.sockets.at(slot).layers.as_mut().expect("only TLS defers");
            let end = layers.continue_handshake(|plaintext| shard.handle_recv(conn, plaintext));
            match end {
                Ok(()) => self.send_ciphertext(slot),
                Err(hangup) => self.abort(conn, hangup),
            }
            if !self.has_time() {
                return;
            }
        }
    }

    /// Ends a connection whose layers failed or whose TLS the peer closed.
    fn abort(&mut self, conn: ConnId, hangup: Hangup) {
        let is_end = matches!(hangup, Hangup::Eof);
        if !is_end {
            self.sockets.at(conn.slot).send_last_alert();
        }
        self.shard.handle_hangup(conn, hangup);
        // A client that ended its side may have sent more than was read.
        if is_end && !self.shard.is_open(conn) {
            self.sockets.at(conn.slot).send_last_alert();
        }
        self.free_if_gone(conn);
    }

    /// Handles a socket that receives nothing more. A deferred handshake is not computed: its answer could not be sent.
    fn hang_up(&mut self, conn: ConnId, hangup: Hangup) {
        self.shard.handle_hangup(conn, hangup);
        self.free_if_gone(conn);
    }
}
