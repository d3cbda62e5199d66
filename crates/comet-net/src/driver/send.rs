//! The steps that send bytes and shut sockets, through TLS where a connection has it.

use comet_core::{ConnId, Hangup, Slot, SocketShutdown, Transmit};
use comet_logic::Authenticator;
use rustix::net::{Shutdown, shutdown};

use super::Driver;
use crate::sockets::failed;
use crate::tls::{EncryptError, TlsSession};

/// Sockets with operations in flight that one turn shuts. Each then completes a receive and often a send. Kernels from
/// 6.13 on run at most 20 deferred completions per system call, oldest first. More shut sockets would delay the input
/// of other clients.
const INTERRUPTED_A_TURN: usize = 8;
/// Sockets that a turn shuts even if its time is over.
const SHUT_A_TURN: usize = 64;

impl<A: Authenticator> Driver<A> {
    pub(super) fn submit_sends(&mut self) {
        self.has_sends_left = true;
        let mut submissions = self.ring.submissions();
        for _ in 0..self.ring.sends_a_turn() {
            if self.ring.submissions() != submissions {
                submissions = self.ring.submissions();
                if !self.has_time() {
                    return;
                }
            }
            let Some(transmit) = self.shard.poll_transmit() else {
                self.has_sends_left = false;
                return;
            };
            let Transmit { conn, mut slices } = transmit;
            let slot = conn.slot;
            let socket = self.sockets.at(slot);
            debug_assert!(!socket.is_shut);
            let first = slices.next().expect("a transmit has bytes");
            let is_one = slices.clone().next().is_none();
            let Some(tls) = socket.tls() else {
                debug_assert!(!socket.is_sending);
                socket.is_sending = true;
                let fd = socket.raw_fd();
                if is_one {
                    self.ring.send(fd, slot, first);
                } else {
                    self.ring.send_slices(fd, slot, std::iter::once(first).chain(slices));
                }
                continue;
            };
            let encrypted = if is_one {
                tls.encrypt(first, &self.tls_budget)
            } else {
                let plaintext = std::iter::once(first).chain(slices).collect::<Vec<_>>().concat();
                tls.encrypt(&plaintext, &self.tls_budget)
            };
            match encrypted {
                Ok(()) => self.send_ciphertext(slot),
                // The transmit is a close notice, which the peer could not read.
                Err(EncryptError::NotReadable) => {
                    self.shard.handle_send_failed(conn, failed(libc::ENOTCONN));
                }
                Err(EncryptError::NotSealed(error)) => {
                    self.shard.handle_send_failed(conn, Hangup::Tls(error.to_string().into()));
                }
            }
        }
    }

    pub(super) fn handle_sent(&mut self, slot: Slot, result: Result<u32, i32>) {
        let socket = self.sockets.at(slot);
        socket.end_send();
        let conn = socket.conn;
        match (socket.tls(), result) {
            // Only a freeze cancels sends. The kernel took no byte.
            (None, Err(libc::ECANCELED)) => self.shard.handle_send_cancelled(conn),
            (Some(_), Err(libc::ECANCELED)) => self.send_ciphertext(slot),
            (None, Ok(bytes)) => self.shard.handle_sent(conn, bytes as usize),
            (None, Err(error)) => self.shard.handle_send_failed(conn, failed(error)),
            (Some(tls), Ok(bytes)) => {
                let plaintext = tls.handle_sent(bytes as usize);
                if plaintext > 0 {
                    self.shard.handle_sent(conn, plaintext);
                } else if tls.is_sending_transmit() {
                    self.shard.handle_send_progress(conn);
                }
                self.send_ciphertext(slot);
            }
            (Some(tls), Err(error)) => {
                if tls.handle_send_failed() {
                    self.shard.handle_send_failed(conn, failed(error));
                } else {
                    self.shard.handle_hangup(conn, failed(error));
                }
            }
        }
        self.free_if_gone(conn);
    }

    /// Submits the queued ciphertext of a connection, if no send of it is in flight.
    pub(super) fn send_ciphertext(&mut self, slot: Slot) {
        let socket = self.sockets.at(slot);
        if self.is_frozen {
            let conn = socket.conn;
            if socket.is_shut {
                return self.drop_kept_send(conn);
            }
            if socket.tls().is_some_and(|tls| tls.has_transmit()) {
                self.shard.handle_send_kept(conn);
            }
            return self.ciphertext_waits.push(slot);
        }
        if socket.is_sending {
            return;
        }
        let fd = socket.raw_fd();
        if let Some(bytes) = socket.tls().and_then(TlsSession::poll_transmit) {
            let bytes: *const [u8] = bytes;
            socket.is_sending = true;
            self.ring.send(fd, slot, bytes);
        } else if std::mem::take(&mut socket.shuts_write_when_flushed) {
            let _ = shutdown(socket, Shutdown::Write);
        }
    }

    /// Shuts one or both sides of the sockets that the shard closes, while the turn has time. A minimum is shut in each
    /// turn, because pushes may take all the time of every turn.
    pub(super) fn shut_sockets(&mut self) {
        let (mut interrupted, mut shut) = (0, 0);
        while let Some((conn, how)) = self.shard.poll_close() {
            if self.sockets.get(conn.slot).is_some_and(|socket| socket.conn == conn) {
                interrupted += usize::from(self.shut_socket(conn, how));
            }
            shut += 1;
            if interrupted >= INTERRUPTED_A_TURN || (shut >= SHUT_A_TURN && !self.has_time()) {
                return;
            }
        }
    }

    /// Returns whether this makes operations in flight complete.
    fn shut_socket(&mut self, conn: ConnId, how: SocketShutdown) -> bool {
        let socket = self.sockets.at(conn.slot);
        match (how, socket.tls()) {
            (SocketShutdown::Write, Some(tls)) => {
                tls.close();
                socket.shuts_write_when_flushed = true;
                self.send_ciphertext(conn.slot);
                false
            }
            // Here and below ENOTCONN is possible: the peer has reset the connection.
            (SocketShutdown::Write, None) => {
                let _ = shutdown(socket, Shutdown::Write);
                false
            }
            (SocketShutdown::Both, _) => {
                socket.is_shut = true;
                self.drop_kept_send(conn);
                let socket = self.sockets.at(conn.slot);
                let is_interrupted = !socket.is_gone();
                if is_interrupted {
                    let _ = shutdown(socket, Shutdown::Both);
                }
                self.free_if_gone(conn);
                is_interrupted
            }
        }
    }

    /// Drops a sealed send that a frozen core kept; no completion of it will come.
    fn drop_kept_send(&mut self, conn: ConnId) {
        let socket = self.sockets.at(conn.slot);
        if !socket.is_sending && socket.tls().is_some_and(TlsSession::handle_send_failed) {
            self.shard.handle_send_cancelled(conn);
        }
    }

    /// Shuts the listeners when the shard begins to drain.
    pub(super) fn shut_listeners(&mut self) {
        if self.shard.is_draining() && !self.has_shut_listeners {
            self.has_shut_listeners = true;
            for listener in &self.listeners {
                // `shutdown` completes the accept in flight; closing the descriptor would not.
                let _ = shutdown(&listener.socket, Shutdown::Both);
            }
        }
    }

    /// Frees the socket and its slot after the last completion.
    pub(super) fn free_if_gone(&mut self, conn: ConnId) {
        let slot = conn.slot;
        if self.sockets.at(slot).is_gone() {
            self.sockets.remove(slot);
            self.shard.handle_gone(conn);
        }
    }
}
