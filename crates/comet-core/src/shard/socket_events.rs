//! Events of sockets (accepted, sent, hung up, gone), the bytes to send, and the sockets to shut.

use crate::canary::Canary;
use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::outbox::SendProgress;
use crate::socket::{Hangup, SocketShutdown, Transmit};
use crate::state::ConnState;
use crate::transport::Transport;

use super::Shard;

impl Shard {
    /// A socket was accepted. `None`: the shard is full or draining, or the process is out of memory. The driver then
    /// closes the socket.
    pub fn handle_accept(&mut self, transport: Transport) -> Option<ConnId> {
        let connections_max = self.context.limits.connections as usize;
        let is_taking = self.context.limits.takes_clients && !self.is_draining();
        if !is_taking || self.conns.len() >= connections_max {
            self.counters.refused += 1;
            return None;
        }
        if self.context.limits.is_out_of_memory {
            self.counters.refused_for_memory += 1;
            return None;
        }
        match transport {
            Transport::Tcp => self.counters.accepted_tcp += 1,
            Transport::WebSocket | Transport::EventStream => self.counters.accepted_websocket += 1,
        }
        self.idle.note_activity(self.context.now);
        let deadline = self.context.deadline(self.context.limits.handshake_ms);
        let slot = self.conns.insert(transport, self.context.now, deadline);
        let conn = self.conns.id(slot);
        self.begin_handshake(slot);
        self.dispatch_local();
        Some(conn)
    }

    /// The driver pauses accepting because of [`Limits::accept_rate`](crate::Limits::accept_rate).
    pub fn handle_accepts_paused(&mut self) {
        self.counters.accept_pauses += 1;
    }

    /// The kernel failed to accept a client or a push caller. The driver tries again.
    pub fn handle_accept_failed(&mut self) {
        self.counters.accept_errors += 1;
    }

    /// The kernel took `bytes` of the last transmit of `conn`.
    pub fn handle_sent(&mut self, conn: ConnId, bytes: usize) {
        let slot = self.conns.find(conn).expect("a slot is not reused while a send is in flight");
        self.traffic.note(conn.local(), bytes, self.context.now);
        if self.conns[slot].is_traced {
            self.trace_written(slot, bytes);
        }
        let conn = &mut self.conns[slot];
        conn.is_send_kept = false;
        self.counters.bytes_out += bytes as u64;
        let SendProgress { pushes, is_done } =
            self.outboxes.chains.advance(&mut conn.outbox, conn.transport, bytes);
        self.counters.sent += u64::from(pushes);
        if !is_done {
            conn.last_progress = self.context.tick();
            self.idle.note_activity(self.context.now);
        }
        if matches!(conn.state, ConnState::Closed) {
            self.abort_after_send(slot);
        } else if !conn.outbox.is_empty() && Canary::ShortSend.is_released() {
        } else if !conn.outbox.is_empty() || self.gaps.has_untold(slot) {
            self.outboxes.mark_ready(slot, conn);
        } else if matches!(conn.state, ConnState::Closing) {
            self.shut_write(slot);
        }
        if !self.recoveries.is_empty() {
            self.go_on_recovering(slot);
            self.dispatch_local();
        }
    }

    /// The kernel took some bytes of the last transmit of `conn`, which is not complete. With TLS the number of plain
    /// bytes is known only at the end.
    pub fn handle_send_progress(&mut self, conn: ConnId) {
        let slot = self.conns.find(conn).expect("a slot is not reused while a send is in flight");
        self.conns[slot].last_progress = self.context.tick();
        self.idle.note_activity(self.context.now);
    }

    /// The last transmit of `conn` failed.
    pub fn handle_send_failed(&mut self, conn: ConnId, how: Hangup) {
        let slot = self.conns.find(conn).expect("a slot is not reused while a send is in flight");
        if self.has_unread_end(slot) {
            let conn = &mut self.conns[slot];
            conn.has_peer_left = true;
            // The send does not continue. The end of the connection settles the unsent rest.
            self.outboxes.mark_ready(slot, conn);
            return;
        }
        self.close_hung_up(slot, how);
        self.abort_after_send(slot);
        self.dispatch_local();
    }

    /// Nothing more can be read from `conn`.
    pub fn handle_hangup(&mut self, conn: ConnId, how: Hangup) {
        let Some(slot) = self.conns.find(conn) else { return };
        self.end_input(slot, how);
        self.dispatch_local();
    }

    /// However the peer leaves, the close reason is the same.
    pub(super) fn close_hung_up(&mut self, slot: Slot, how: Hangup) {
        match how {
            Hangup::Eof => self.close(slot, CloseReason::PeerClosed, ""),
            Hangup::Cut(error) => {
                self.close(slot, CloseReason::PeerClosed, &format!("cut off: error {error}"));
            }
            Hangup::Error(error) => {
                let detail = format!("the socket failed: error {error}");
                self.close(slot, CloseReason::SocketError, &detail);
            }
            Hangup::Tls(fault) => self.close(slot, CloseReason::TlsFailed, &fault),
            Hangup::Proxy(fault) => self.close(slot, CloseReason::BadProxyHeader, &fault),
        }
    }

    /// No operation on the socket of `conn` is left. Its slot may be reused.
    ///
    /// # Panics
    /// If the shard did not ask for [`SocketShutdown::Both`] first, or a send was not answered.
    pub fn handle_gone(&mut self, conn: ConnId) {
        let slot = self.conns.find(conn).expect("a connection is gone only once");
        let conn = &self.conns[slot];
        assert!(matches!(conn.state, ConnState::Closed), "shut before it is gone");
        assert!(conn.outbox.is_empty(), "every transmit was answered");
        if conn.is_traced {
            self.tracing.remove(&slot);
        }
        self.conns.remove(slot);
        self.report_drained();
    }

    /// The next bytes to send. At most one transmit of a connection is under way at any time.
    pub fn poll_transmit(&mut self) -> Option<Transmit<'_>> {
        loop {
            let slot = self.outboxes.pop_ready()?;
            // The slot may have been freed while it was queued, and perhaps reused.
            let Some(conn) = self.conns.in_slot(slot) else { continue };
            // The connection stays marked as ready: its send was cut short and is not settled yet.
            if conn.has_peer_left && conn.is_open() {
                continue;
            }
            if !std::mem::take(&mut conn.is_ready) || matches!(conn.state, ConnState::Closed) {
                continue;
            }
            if !conn.outbox.is_sending() {
                if conn.transport == Transport::EventStream {
                    self.append_event_id(slot);
                }
                let conn = &mut self.conns[slot];
                if !self.outboxes.start(slot, conn, &mut self.gaps, &self.rooms) {
                    continue;
                }
                self.conns.begin_send(slot, self.context.tick());
            }
            self.counters.sends += 1;
            let id = self.conns.id(slot);
            let conn = &self.conns[slot];
            let slices = self.outboxes.chains.slices(&conn.outbox, conn.transport);
            return Some(Transmit { conn: id, slices });
        }
    }

    /// The next socket to shut.
    pub fn poll_close(&mut self) -> Option<(ConnId, SocketShutdown)> {
        self.closes.pop_front()
    }

    /// Whether [`Shard::poll_close`] has more sockets.
    #[must_use]
    pub fn has_closes(&self) -> bool {
        !self.closes.is_empty()
    }
}
