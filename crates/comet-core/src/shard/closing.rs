//! How a connection ends: its close reason, the close notice, and the loss of what waits.

use comet_proto::websocket::Fault;
use comet_proto::{Encoded, VERSION, op};

use crate::canary::Canary;
use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::limits::CLOSED_EVENTS_MAX;
use crate::message::TraceKind;
use crate::outbox::Remains;
use crate::socket::{ClosedEvent, SocketShutdown};
use crate::state::{AwaitedReply, ConnState};
use crate::transport::Transport;

use super::Shard;

/// Longest text of a close frame, bytes (RFC 6455 5.5: 125, two of which are the code).
const CLOSE_TEXT_MAX: usize = 123;

/// Close codes (RFC 6455 7.4.1): 1000, normal closure; 1001, an endpoint is going away.
const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;

/// What a client is told when its connection is closed: a close frame over WebSocket, an event in an event stream, and
/// operation 6 in protocol 2. goim's clients take an operation 6 for a message, so clients of protocol 1 get none
/// unless [`Limits::goodbye`](crate::Limits::goodbye) is set.
pub(super) struct CloseNotice<'a> {
    pub(super) reason: CloseReason,
    /// What was wrong in particular; empty if the reason says everything.
    detail: &'a str,
    /// The WebSocket's close code (RFC 6455 7.4.1); `None`: the close frame is empty.
    code: Option<u16>,
    /// How long the client should wait before it connects again.
    pub(super) retry_after_ms: Option<u32>,
}

impl CloseNotice<'_> {
    /// The detail, or the label if there is no detail.
    pub(super) fn message(&self) -> &str {
        if self.detail.is_empty() { self.reason.label() } else { self.detail }
    }

    /// The body of operation 6: the message and the time to wait.
    fn goodbye(&self) -> String {
        format!("{}{}", self.message(), self.hint())
    }

    /// The text of the close frame: the label, as much of the detail as fits, and the time to wait.
    fn close_text(&self) -> String {
        let (label, hint) = (self.reason.label(), self.hint());
        // The detail of a kick begins with the label.
        let detail = self.detail.strip_prefix(label).unwrap_or(self.detail);
        let separator = if detail.is_empty() || detail.starts_with(": ") { "" } else { ": " };
        let space = CLOSE_TEXT_MAX - label.len() - separator.len() - hint.len();
        let detail = &detail[..detail.floor_char_boundary(space)];
        format!("{label}{separator}{detail}{hint}")
    }

    fn hint(&self) -> String {
        self.retry_after_ms.map_or_else(String::new, |millis| format!("; retry_after_ms={millis}"))
    }
}

impl Shard {
    /// Begins the end of a connection. It leaves its room and its homes at once. Then its outbox is sent, with the
    /// close notice last, and then the socket is shut.
    pub(super) fn close(&mut self, slot: Slot, reason: CloseReason, detail: &str) {
        self.close_with_hint(slot, reason, detail, None);
    }

    /// As [`Shard::close`], with a time to wait in the notice.
    pub(super) fn close_with_hint(
        &mut self,
        slot: Slot,
        reason: CloseReason,
        detail: &str,
        retry_after_ms: Option<u32>,
    ) {
        let code = match reason {
            CloseReason::PeerClosed => NORMAL,
            CloseReason::Draining => GOING_AWAY,
            CloseReason::BadFrame | CloseReason::RawFromClient => 1002,
            CloseReason::LogicUnavailable
            | CloseReason::AddressLimit
            | CloseReason::SubnetLimit
            | CloseReason::HandshakeOverflow => 1013,
            CloseReason::Kicked if retry_after_ms.is_some() => 1013,
            // Registered as "Unauthorized", the counterpart of HTTP's 401.
            CloseReason::TokenExpired => 3000,
            _ => 1008,
        };
        self.close_with(slot, &CloseNotice { reason, detail, code: Some(code), retry_after_ms });
    }

    /// As [`Shard::close`], for an error of a WebSocket client.
    pub(super) fn close_for_fault(&mut self, slot: Slot, fault: &Fault) {
        let reason = match fault {
            Fault::TooLarge => CloseReason::WebSocketTooLarge,
            Fault::Text | Fault::Binary => CloseReason::WebSocketText,
            _ => CloseReason::BadWebSocket,
        };
        let (detail, code) = (fault.to_string(), Some(fault.close_code()));
        self.close_with(slot, &CloseNotice { reason, detail: &detail, code, retry_after_ms: None });
    }

    /// Answers the close frame of a WebSocket client with the client's own code (RFC 6455 5.5.1).
    pub(super) fn close_for_peer(&mut self, slot: Slot, code: Option<u16>) {
        // Only code 1000 is a goodbye. A page that is reloaded sends another code, and so does a client that gave up on
        // a silent connection.
        if code == Some(NORMAL) {
            self.conns[slot].is_kept = false;
        }
        let reason = CloseReason::PeerClosed;
        self.close_with(slot, &CloseNotice { reason, detail: "", code, retry_after_ms: None });
    }

    fn close_with(&mut self, slot: Slot, notice: &CloseNotice<'_>) {
        let CloseNotice { mut reason, detail, .. } = *notice;
        if !self.conns[slot].is_open() {
            return;
        }
        if self.conns[slot].has_peer_left
            && matches!(reason, CloseReason::SlowConsumer | CloseReason::Draining)
        {
            // The client left before that, so its session is kept.
            reason = CloseReason::PeerClosed;
        }
        self.counters.closed[reason as usize] += 1;
        let id = self.conns.id(slot);
        if self.conns[slot].is_traced {
            self.trace(slot, TraceKind::Closed { reason });
        }
        self.leave_source(slot);
        let leaving = self.leaving(slot, reason);
        self.token_expiries.disarm(slot);
        let conn = &mut self.conns[slot];
        if conn.is_live() {
            self.counters.live -= 1;
        } else {
            self.handshakes.end();
        }
        let awaits_auth_reply = conn.awaits_auth_reply();
        let state = std::mem::replace(&mut conn.state, ConnState::Closing);
        let input = conn.input.take();
        let key = std::mem::take(&mut conn.key);
        if self.closed.len() < CLOSED_EVENTS_MAX {
            let event = ClosedEvent { conn: id, reason, key: key.clone(), detail: detail.into() };
            self.closed.push_back(event);
        }
        let has_left = leaving.is_some();
        match leaving {
            Some(leaving) => self.depart(slot, key, leaving, reason),
            None => self.unregister(slot, key),
        }
        self.forget_recovery(slot);
        let conn = &self.conns[slot];
        // A send in flight cannot go on: the next connection waits for what it leaves unsent. A client that has left
        // gets no notice.
        if (has_left && conn.outbox.is_sending()) || conn.has_peer_left {
            return self.abort(slot);
        }
        // Before the upgrade is answered the peer speaks HTTP, and its response is queued already.
        if !matches!(state, ConnState::Upgrading) && !reason.is_silent() {
            if self.conns[slot].transport == Transport::EventStream {
                let cors = input.and_then(|input| input.cors).unwrap_or_default();
                self.end_stream(slot, notice, awaits_auth_reply.then_some(&*cors));
            } else {
                self.queue_notice(slot, notice);
            }
        }
        self.set_deadline(slot, self.context.limits.linger_ms);
        if self.conns[slot].outbox.is_empty() {
            self.shut_write(slot);
        }
    }

    /// Answers an upgrade request that may be incomplete, if `slot` has not opened its WebSocket. The caller closes it
    /// next.
    pub(super) fn refuse_upgrade(&mut self, slot: Slot, retry_after_ms: u32) {
        let conn = &self.conns[slot];
        if conn.is_open() && matches!(conn.state, ConnState::Upgrading) {
            let seconds = retry_after_ms.div_ceil(1_000);
            let response = format!(
                "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nRetry-After: {seconds}\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            self.reply_with(slot, Encoded::verbatim(response.as_bytes()));
        }
    }

    fn queue_notice(&mut self, slot: Slot, notice: &CloseNotice<'_>) {
        let conn = &self.conns[slot];
        let takes_goodbye = conn.is_protocol_2 || self.context.limits.goodbye;
        let transport = conn.transport;
        if takes_goodbye && notice.reason != CloseReason::PeerClosed {
            let goodbye =
                AwaitedReply { version: VERSION, operation: op::DISCONNECT_REPLY, sequence: 0 };
            self.reply(slot, goodbye, notice.goodbye().as_bytes());
        }
        if transport == Transport::WebSocket {
            let close = notice.code.map(|code| Encoded::close(code, &notice.close_text()));
            self.reply_with(slot, close.unwrap_or_else(Encoded::empty_close));
        }
    }

    /// Everything is sent: shuts our side and waits for the peer to do the same. Of the connections that were turned
    /// away only a few wait; the others are cut at once. A client that has sent more than was read then gets a reset
    /// behind the notice. Linux keeps received data after a reset. Other systems may discard an unread notice, so the
    /// first ones wait.
    pub(super) fn shut_write(&mut self, slot: Slot) {
        if self.conns[slot].is_turned_away {
            if !self.may_linger_turned_away() {
                return self.abort(slot);
            }
            self.turned_away += 1;
        }
        self.conns[slot].state = ConnState::Lingering;
        self.gaps.forget_all(slot);
        self.closes.push_back((self.conns.id(slot), SocketShutdown::Write));
    }

    /// Cuts a connection that is closing. What waits is lost, and counted.
    pub(super) fn abort(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot];
        debug_assert!(!conn.is_open(), "a reason was given first");
        let former = std::mem::replace(&mut conn.state, ConnState::Closed);
        if matches!(former, ConnState::Closed) {
            return;
        }
        if conn.is_turned_away && matches!(former, ConnState::Lingering) {
            self.turned_away -= 1;
        }
        self.gaps.forget_all(slot);
        // A send that was cut short and not resumed yet gets no further completion.
        let has_cut_send = conn.is_ready;
        let remains = self.outboxes.drop_pending(conn);
        self.count_remains(remains);
        if has_cut_send {
            self.lose_in_flight(slot);
        }
        self.closes.push_back((self.conns.id(slot), SocketShutdown::Both));
    }

    /// The last completion of a closed connection has arrived. What was left in flight is lost.
    pub(super) fn abort_after_send(&mut self, slot: Slot) {
        self.abort(slot);
        self.lose_in_flight(slot);
    }

    fn lose_in_flight(&mut self, slot: Slot) {
        if !self.departures.is_empty() && self.settle_departure(slot) {
            return;
        }
        let remains = self.outboxes.drop_in_flight(&mut self.conns[slot]);
        self.count_remains(remains);
    }

    fn count_remains(&mut self, Remains { pushes, .. }: Remains) {
        if !Canary::UncountedLoss.is_released() {
            self.counters.lost += u64::from(pushes);
        }
    }
}
