//! How a connection ends: deadlines, reasons, the goodbye, and what is lost.

use comet_proto::websocket::Fault;
use comet_proto::{Encoded, op};

use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::limits::{EVENTS_MAX, TICK_MS};
use crate::message::TraceKind;
use crate::outbox::Remains;
use crate::state::ConnState;
use crate::time::Tick;
use crate::transport::Transport;

use super::{CloseHow, ClosedEvent, Shard};

/// What a client is told when it is closed.
struct Goodbye<'a> {
    reason: CloseReason,
    /// What exactly was wrong; empty where the reason says it all.
    detail: &'a str,
    /// The WebSocket's close code (RFC 6455 7.4.1).
    code: u16,
    /// How long to wait before it comes again.
    retry_after_ms: Option<u32>,
}

impl Shard {
    pub(super) fn deadline(&self, millis: u32) -> Tick {
        // Rounded up: a deadline may come late by a tick, never early.
        self.now.after(millis.into()).tick_at_or_after()
    }

    /// Looks at the sends begun since the last time: one that still goes on gets its write deadline.
    pub(super) fn watch(&mut self) {
        let tick = self.now.tick();
        let mut watched = std::mem::take(&mut self.watched);
        watched.retain(|&slot| {
            if !self.conns.is_taken(slot) {
                return false;
            }
            let entry = &mut self.conns[slot];
            if !entry.is_watched {
                return false;
            }
            if entry.outbox.is_sending() && entry.moved == tick {
                return true;
            }
            entry.is_watched = false;
            if entry.outbox.is_sending() {
                self.arm(slot);
            }
            false
        });
        self.watched = watched;
    }

    fn write_deadline(&self, slot: Slot) -> Tick {
        // The send moved somewhere within that tick, so the whole of it does not count.
        Tick(self.conns[slot].moved.0 + 1 + self.limits.write_ms.div_ceil(TICK_MS as u32))
    }

    /// The wheel came past `slot`: something is due, or its deadline has moved.
    pub(super) fn expire(&mut self, slot: Slot) {
        let now = self.now.tick();
        let entry = &self.conns[slot];
        let is_sending = entry.outbox.is_sending();
        if matches!(entry.state, ConnState::Closed) {
            return;
        }
        if is_sending && self.write_deadline(slot) <= now {
            self.close(slot, CloseReason::WriteTimeout, "");
            self.abort(slot);
        } else if entry.deadline <= now {
            match entry.state {
                ConnState::Closing | ConnState::Lingering => self.abort(slot),
                _ if entry.is_live() => self.close(slot, CloseReason::HeartbeatTimeout, ""),
                _ => self.close(slot, CloseReason::HandshakeTimeout, ""),
            }
        } else {
            self.arm(slot);
        }
    }

    /// Moves the deadline of `slot` to `millis` from now.
    pub(super) fn set_deadline(&mut self, slot: Slot, millis: u32) {
        self.conns[slot].deadline = self.deadline(millis);
        self.arm(slot);
    }

    /// Has the wheel come past at the deadline of `slot`, or at that of its send if that is earlier.
    fn arm(&mut self, slot: Slot) {
        let entry = &self.conns[slot];
        let mut next = entry.deadline;
        // A send that has just begun gets its deadline from `watch`, if it has not ended by then.
        if entry.outbox.is_sending() && !entry.is_watched {
            next = next.min(self.write_deadline(slot));
        }
        self.wheel.arm(slot, next);
    }

    /// Ends a connection: out of its room and homes at once, goodbye queued, flushed, shut.
    pub(super) fn close(&mut self, slot: Slot, reason: CloseReason, detail: &str) {
        self.turn_away(slot, reason, detail, None);
    }

    /// Closes, and tells the client how long to wait before it comes again.
    pub(super) fn turn_away(
        &mut self,
        slot: Slot,
        reason: CloseReason,
        detail: &str,
        retry_after_ms: Option<u32>,
    ) {
        let code = match reason {
            CloseReason::PeerClosed => 1000,
            CloseReason::Draining => 1001,
            CloseReason::BadFrame | CloseReason::RawFromClient => 1002,
            CloseReason::LogicUnavailable => 1013,
            _ => 1008,
        };
        self.close_with(slot, &Goodbye { reason, detail, code, retry_after_ms });
    }

    pub(super) fn close_for_fault(&mut self, slot: Slot, fault: &Fault) {
        let reason = match fault {
            Fault::TooLarge => CloseReason::WebSocketTooLarge,
            Fault::Text => CloseReason::WebSocketText,
            _ => CloseReason::BadWebSocket,
        };
        let (detail, code) = (fault.to_string(), fault.close_code());
        self.close_with(slot, &Goodbye { reason, detail: &detail, code, retry_after_ms: None });
    }

    fn close_with(&mut self, slot: Slot, goodbye: &Goodbye<'_>) {
        let Goodbye { reason, detail, .. } = *goodbye;
        if !self.conns[slot].is_open() {
            return;
        }
        self.counters.closed[reason as usize] += 1;
        let conn = self.conn_id(slot);
        if self.conns[slot].is_traced {
            self.note(slot, TraceKind::Closed { reason });
        }
        let entry = &mut self.conns[slot];
        self.counters.live -= u64::from(entry.is_live());
        let state = std::mem::replace(&mut entry.state, ConnState::Closing);
        entry.input = None;
        let key = std::mem::take(&mut entry.key);
        if self.events.len() < EVENTS_MAX {
            let event = ClosedEvent { conn, reason, key: key.clone(), detail: detail.into() };
            self.events.push_back(event);
        }
        self.unregister(slot, key);
        // Before the upgrade is answered the peer speaks HTTP, and its answer is queued already.
        if !matches!(state, ConnState::Upgrading) && !reason.is_broken_socket() {
            self.say_goodbye(slot, goodbye);
        }
        self.set_deadline(slot, self.limits.linger_ms);
        if self.conns[slot].outbox.is_empty() {
            self.shut_write(slot);
        }
    }

    fn say_goodbye(&mut self, slot: Slot, goodbye: &Goodbye<'_>) {
        let Goodbye { reason, detail, code, retry_after_ms } = *goodbye;
        let hinted = |text: &str| match retry_after_ms {
            Some(millis) => format!("{text}; retry_after_ms={millis}"),
            None => text.to_owned(),
        };
        if reason != CloseReason::PeerClosed {
            let body = if detail.is_empty() { reason.label() } else { detail };
            self.reply(slot, op::DISCONNECT_REPLY, 0, hinted(body).as_bytes());
        }
        if self.conns[slot].transport == Transport::WebSocket {
            self.reply_with(slot, Encoded::close(code, &hinted(reason.label())));
        }
    }

    /// All is said: shut our side and wait for the peer to do the same.
    pub(super) fn shut_write(&mut self, slot: Slot) {
        self.conns[slot].state = ConnState::Lingering;
        self.closes.push_back((self.conn_id(slot), CloseHow::Write));
    }

    /// Gives up on a connection that is closing: what waits is lost, and counted.
    pub(super) fn abort(&mut self, slot: Slot) {
        let entry = &mut self.conns[slot];
        debug_assert!(!entry.is_open(), "a reason was given first");
        if matches!(entry.state, ConnState::Closed) {
            return;
        }
        entry.state = ConnState::Closed;
        let remains = self.chains.clear_pending(&mut entry.outbox, entry.transport);
        let has_cut_send = entry.is_ready;
        self.write_off(remains);
        // A send that was cut short and is not resumed yet has no completion to come.
        if has_cut_send {
            self.lose_in_flight(slot);
        }
        self.closes.push_back((self.conn_id(slot), CloseHow::Both));
    }

    /// The last completion of a closed connection has come: what it left of the chain is lost.
    pub(super) fn forget_in_flight(&mut self, slot: Slot) {
        self.abort(slot);
        self.lose_in_flight(slot);
    }

    fn lose_in_flight(&mut self, slot: Slot) {
        let entry = &mut self.conns[slot];
        let remains = self.chains.clear_in_flight(&mut entry.outbox, entry.transport);
        self.write_off(remains);
    }

    fn write_off(&mut self, Remains { sent, lost, bytes }: Remains) {
        self.counters.sent += u64::from(sent);
        self.counters.lost += u64::from(lost);
        self.bytes_given_up += u64::from(bytes);
    }
}
