//! What happens on sockets: accepted, received, sent, shut. Through a front where there is one.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use comet_core::{CloseHow, ConnId, Hangup};
use comet_logic::Auther;
use rustix::net::{Shutdown, shutdown};

use super::{ACCEPT_RETRY, Driver};
use crate::layers::{Front, Progress};
use crate::ring::{self, Completion};
use crate::sockets::peer;
use crate::tls::TlsSession;

/// Handshakes one turn goes on with: some 10 ms with ECDSA keys. When a crowd comes back at once, those
/// who are there already get their pushes in between.
const HANDSHAKES_A_TURN: usize = 64;

impl<A: Auther> Driver<A> {
    pub(super) fn accepted(&mut self, completion: Completion) {
        let index = completion.index;
        if !completion.more {
            self.deaf.push(index);
        }
        let listener = &self.listeners[index as usize];
        match completion.result {
            Ok(fd) => {
                let fd = ring::accepted(fd);
                if let Some(conn) = self.shard.handle_accept(listener.transport) {
                    let tls = listener.tls.as_ref();
                    let tls = tls.map(|tls| TlsSession::new(tls.config(listener.transport)));
                    let awaits_header = listener
                        .proxy_from
                        .as_ref()
                        .is_some_and(|from| peer(&fd).is_some_and(|peer| from.has(peer.ip())));
                    self.ring.recv(fd.as_raw_fd(), conn.slot);
                    self.sockets.insert(fd, conn, Front::new(awaits_header, tls));
                    self.sockets.at(conn.slot).is_receiving = true;
                }
            }
            Err(libc::ECONNABORTED) => {}
            Err(error) if self.shard.is_draining() => {
                log::debug!("core {}: accept ended: error {error}", self.shard.id().0);
            }
            Err(error) => {
                self.hear_again_at = Instant::now() + ACCEPT_RETRY;
                let error = io::Error::from_raw_os_error(error);
                log::warn!("core {}: accept failed: {error}", self.shard.id().0);
            }
        }
    }

    pub(super) fn received(&mut self, completion: Completion) {
        let slot = completion.index;
        let socket = self.sockets.at(slot);
        socket.is_receiving = completion.more;
        let conn = socket.conn;
        match completion.result {
            Ok(0) => self.ended(conn, Hangup::Eof),
            Ok(length) => {
                let buffer = completion.buffer.expect("a receive with bytes names its buffer");
                let bytes = self.buffers.filled(buffer, length as usize);
                let progress = match &mut socket.front {
                    None => {
                        self.shard.handle_recv(conn, bytes);
                        None
                    }
                    Some(front) => {
                        let shard = &mut self.shard;
                        Some(front.receive(bytes, |plain| shard.handle_recv(conn, plain)))
                    }
                };
                self.buffers.offer(buffer);
                if !completion.more {
                    self.starved.push(slot);
                }
                match progress {
                    None => {}
                    // TLS may have something to say of its own.
                    Some(Ok(Progress::Done)) => self.send_sealed(slot),
                    Some(Ok(Progress::Handshake)) => self.handshakes.push_back(conn),
                    Some(Err(hangup)) => self.cut(conn, hangup),
                }
            }
            Err(libc::ENOBUFS) => self.starved.push(slot),
            Err(error) => self.ended(conn, Hangup::Error(error)),
        }
    }

    /// The stream has ended, as soon as all before it is done.
    fn ended(&mut self, conn: ConnId, how: Hangup) {
        let how = match &mut self.sockets.at(conn.slot).front {
            None => Some(how),
            Some(front) => front.end(how),
        };
        if let Some(how) = how {
            self.hung_up(conn, how);
        }
    }

    /// Goes on with handshakes, as many as a turn may spend time on.
    pub(super) fn shake_hands(&mut self) {
        for _ in 0..HANDSHAKES_A_TURN {
            let Some(conn) = self.handshakes.pop_front() else { return };
            if self.sockets.get(conn.slot).is_none_or(|socket| socket.conn != conn) {
                continue;
            }
            let shard = &mut self.shard;
            let front = self.sockets.at(conn.slot).front.as_mut().expect("it shakes hands");
            match front.shake_hands(|plain| shard.handle_recv(conn, plain)) {
                Ok(()) => self.send_sealed(conn.slot),
                Err(hangup) => self.cut(conn, hangup),
            }
        }
    }

    /// What came through the front was the last: its fault, or the peer's goodbye.
    fn cut(&mut self, conn: ConnId, hangup: Hangup) {
        self.sockets.at(conn.slot).say_last();
        self.hung_up(conn, hangup);
    }

    fn hung_up(&mut self, conn: ConnId, how: Hangup) {
        self.shard.handle_hangup(conn, how);
        self.free_if_gone(conn);
    }

    fn free_if_gone(&mut self, conn: ConnId) {
        if self.sockets.at(conn.slot).is_gone() {
            self.sockets.remove(conn.slot);
            self.shard.handle_gone(conn);
        }
    }

    pub(super) fn submit_sends(&mut self) {
        self.is_behind = true;
        for _ in 0..self.ring.sends_a_turn() {
            let Some(transmit) = self.shard.poll_transmit() else {
                self.is_behind = false;
                return;
            };
            let conn = transmit.conn;
            let slot = conn.slot;
            let socket = self.sockets.at(slot);
            debug_assert!(!socket.is_closing);
            let Some(tls) = socket.tls() else {
                debug_assert!(!socket.is_sending);
                socket.is_sending = true;
                self.ring.send(socket.raw(), slot, (transmit.bytes.as_ptr(), transmit.bytes.len()));
                continue;
            };
            if tls.seal(transmit.bytes) {
                self.send_sealed(slot);
            } else {
                // A goodbye before the handshake is done: nobody could read it.
                self.shard.handle_send_failed(conn, libc::ENOTCONN);
            }
        }
    }

    pub(super) fn sent(&mut self, completion: Completion) {
        let slot = completion.index;
        let socket = self.sockets.at(slot);
        socket.is_sending = false;
        let conn = socket.conn;
        match (socket.tls(), completion.result) {
            (None, Ok(bytes)) => self.shard.handle_sent(conn, bytes as usize),
            (None, Err(error)) => self.shard.handle_send_failed(conn, error),
            (Some(tls), Ok(bytes)) => {
                let plain = tls.sent(bytes as usize);
                if plain > 0 {
                    self.shard.handle_sent(conn, plain);
                }
                self.send_sealed(slot);
            }
            (Some(tls), Err(error)) => {
                if tls.fail() {
                    self.shard.handle_send_failed(conn, error);
                } else {
                    self.shard.handle_hangup(conn, Hangup::Error(error));
                }
            }
        }
        self.free_if_gone(conn);
    }

    /// Submits ciphertext that waits, if none is under way.
    fn send_sealed(&mut self, slot: u32) {
        let socket = self.sockets.at(slot);
        if socket.is_sending {
            return;
        }
        let fd = socket.raw();
        if let Some(bytes) = socket.tls().and_then(TlsSession::transmit) {
            let bytes = (bytes.as_ptr(), bytes.len());
            socket.is_sending = true;
            self.ring.send(fd, slot, bytes);
        } else if std::mem::take(&mut socket.is_ending) {
            let _ = shutdown(socket, Shutdown::Write);
        }
    }

    pub(super) fn shut_sockets(&mut self) {
        while let Some((conn, how)) = self.shard.poll_close() {
            let slot = conn.slot;
            if self.sockets.get(slot).is_none_or(|socket| socket.conn != conn) {
                continue;
            }
            let socket = self.sockets.at(slot);
            match (how, socket.tls()) {
                (CloseHow::Write, Some(tls)) => {
                    tls.close();
                    socket.is_ending = true;
                    self.send_sealed(slot);
                }
                // ENOTCONN, here and below: the peer was faster.
                (CloseHow::Write, None) => {
                    let _ = shutdown(socket, Shutdown::Write);
                }
                (CloseHow::Both, _) => {
                    socket.is_closing = true;
                    // What is under way completes either way.
                    if socket.is_receiving || socket.is_sending {
                        let _ = shutdown(socket, Shutdown::Both);
                    }
                    self.free_if_gone(conn);
                }
            }
        }
        if self.shard.is_draining() && !self.has_shut_listeners {
            self.has_shut_listeners = true;
            for listener in &self.listeners {
                // Ends the accept that is under way, which closing the descriptor would not.
                let _ = shutdown(&listener.socket, Shutdown::Both);
            }
        }
    }
}
