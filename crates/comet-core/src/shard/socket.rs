//! Sockets, as the driver tells of them and is told: accepted, sent, hung up, gone; to send, to shut.

use crate::conn::Conn;
use crate::ids::ConnId;
use crate::ledger::CloseReason;
use crate::outbox::SendProgress;
use crate::state::ConnState;
use crate::transport::Transport;

use super::Shard;

/// Bytes for one socket.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// Whose socket.
    pub conn: ConnId,
    /// What to send; never empty. The bytes keep their address and content until the
    /// [`Shard::handle_sent`] or [`Shard::handle_send_failed`] that answers this transmit, even if the
    /// connection is closed before it.
    pub bytes: &'a [u8],
}

/// Which sides of a socket to shut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseHow {
    /// All is sent: shut our side, keep reading until the peer closes too.
    Write,
    /// Shut both sides. Once no operation on the socket is left, [`Shard::handle_gone`].
    Both,
}

/// How the reading side of a socket ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hangup {
    /// The peer closed it.
    Eof,
    /// The kernel's error number; of a receive, or of a send of TLS's own.
    Error(i32),
    /// TLS failed; what went wrong.
    Tls(Box<str>),
    /// The PROXY protocol header was missing or wrong; in what way.
    Proxy(Box<str>),
}

impl Shard {
    /// A socket was accepted. `None`: the shard is full or draining, close it.
    pub fn handle_accept(&mut self, transport: Transport) -> Option<ConnId> {
        if self.is_draining || self.conns.len() >= self.limits.connections as usize {
            self.counters.refused += 1;
            return None;
        }
        match transport {
            Transport::Tcp => self.counters.accepted_tcp += 1,
            Transport::WebSocket => self.counters.accepted_websocket += 1,
        }
        self.idle.note_activity(self.now);
        let deadline = self.deadline(self.limits.handshake_ms);
        let slot = self.conns.insert(Conn::new(transport, deadline));
        self.wheel.arm(slot, deadline);
        Some(self.conn_id(slot))
    }

    /// The kernel took `bytes` of the last transmit of `conn`.
    pub fn handle_sent(&mut self, conn: ConnId, bytes: usize) {
        let tick = self.now.tick();
        let slot = self.slot(conn).expect("a slot is not reused while a send is in flight");
        if self.conns[slot].is_traced {
            self.note_written(slot, bytes);
        }
        let entry = &mut self.conns[slot];
        self.counters.bytes_out += bytes as u64;
        match self.chains.advance(&mut entry.outbox, entry.transport, bytes) {
            SendProgress::Partial => {
                entry.moved = tick;
                self.idle.note_activity(self.now);
            }
            SendProgress::Done { pushes } => self.counters.sent += u64::from(pushes),
        }
        if matches!(entry.state, ConnState::Closed) {
            self.forget_in_flight(slot);
        } else if !entry.outbox.is_empty() {
            self.mark_ready(slot);
        } else if matches!(entry.state, ConnState::Closing) {
            self.shut_write(slot);
        }
    }

    /// The last transmit of `conn` failed with this error number.
    pub fn handle_send_failed(&mut self, conn: ConnId, error: i32) {
        let slot = self.slot(conn).expect("a slot is not reused while a send is in flight");
        self.close(slot, CloseReason::SocketError, &format!("send failed: error {error}"));
        self.forget_in_flight(slot);
        self.settle();
    }

    /// Nothing more will be read from `conn`.
    pub fn handle_hangup(&mut self, conn: ConnId, how: Hangup) {
        let Some(slot) = self.slot(conn) else { return };
        match how {
            Hangup::Eof => self.close(slot, CloseReason::PeerClosed, ""),
            Hangup::Error(error) => {
                self.close(
                    slot,
                    CloseReason::SocketError,
                    &format!("the socket failed: error {error}"),
                );
            }
            Hangup::Tls(fault) => self.close(slot, CloseReason::TlsFailed, &fault),
            Hangup::Proxy(fault) => self.close(slot, CloseReason::BadProxyHeader, &fault),
        }
        // It was closing already, and now there is nobody left to say goodbye to.
        self.abort(slot);
        self.settle();
    }

    /// No operation on the socket of `conn` is left; its slot may be taken again.
    ///
    /// # Panics
    /// If the shard did not ask for [`CloseHow::Both`] first, or a send was not answered.
    pub fn handle_gone(&mut self, conn: ConnId) {
        let slot = self.slot(conn).expect("a connection is gone only once");
        let entry = &self.conns[slot];
        assert!(matches!(entry.state, ConnState::Closed), "shut before it is gone");
        assert!(entry.outbox.is_empty(), "every transmit was answered");
        self.wheel.disarm(slot);
        self.conns.remove(slot);
        self.report_drained();
    }

    /// The next bytes to send. At most one transmit of a connection is under way at any time.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        loop {
            let slot = self.ready.pop_front()?;
            // A slot that was freed while it waited here, and perhaps taken again.
            if !self.conns.is_taken(slot) {
                continue;
            }
            let entry = &mut self.conns[slot];
            if !std::mem::take(&mut entry.is_ready) || matches!(entry.state, ConnState::Closed) {
                continue;
            }
            if !entry.outbox.is_sending() {
                if !self.chains.start(&mut entry.outbox) {
                    continue;
                }
                entry.moved = self.now.tick();
                if !entry.is_watched {
                    entry.is_watched = true;
                    self.watched.push(slot);
                }
            }
            self.counters.sends += 1;
            let conn = ConnId { shard: self.id, slot, generation: self.conns.generation(slot) };
            let entry = &self.conns[slot];
            let bytes = self.chains.slice(&entry.outbox, entry.transport);
            debug_assert!(!bytes.is_empty());
            return Some(Transmit { conn, bytes });
        }
    }

    /// The next socket to shut.
    pub fn poll_close(&mut self) -> Option<(ConnId, CloseHow)> {
        self.closes.pop_front()
    }
}
