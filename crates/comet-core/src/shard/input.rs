//! Bytes from clients: what may be read now, the upgrade, and the framing of both transports.

use comet_proto::websocket::{self, Accepted, Event, MessageKinds, Origin};
use comet_proto::{Encoded, HEADER_LEN, decode, sse, text};

use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::limits::HELD_MAX;
use crate::socket::Hangup;
use crate::state::ConnState;
use crate::transport::Transport;

use super::Shard;
use super::rate_limiter::RateEvent;

/// The result of a look at the front of the input.
pub(super) enum ReadStep {
    /// So many bytes are done with.
    Consumed(usize),
    /// Nothing to do until more bytes arrive.
    Incomplete,
    /// The connection is closing; the rest does not matter.
    Closed,
}

/// The answer to a page of an origin that is not listed.
const FORBIDDEN: &[u8] = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 38\r\n\r\n\
    Pages of this origin may not connect.\n";

impl Shard {
    /// Bytes arrived from the peer.
    pub fn handle_recv(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(slot) = self.conns.find(conn) else { return };
        self.counters.bytes_in += bytes.len() as u64;
        self.traffic.note(conn.local(), bytes.len(), self.context.now);
        if self.conns[slot].transport == Transport::EventStream {
            self.close(slot, CloseReason::BadFrame, "an event stream takes no input");
            return self.dispatch_local();
        }
        if !self.conns[slot].is_open() || !self.may_send(slot, RateEvent::Bytes(bytes.len())) {
            return self.dispatch_local();
        }
        match &mut self.conns[slot].input {
            Some(input) if !input.bytes.is_empty() => {
                input.bytes.extend_from_slice(bytes);
                self.resume_reading(slot);
            }
            // Nothing was left over: read from where the kernel put it.
            _ => {
                let consumed = self.read(slot, bytes);
                self.keep(slot, &bytes[consumed..]);
            }
        }
        self.dispatch_local();
    }

    /// Reads what was held for a connection that may read again. If its client has left, the connection ends once all is read.
    pub(super) fn resume_reading(&mut self, slot: Slot) {
        let Some(input) = &mut self.conns[slot].input else {
            return;
        };
        let bytes = std::mem::take(&mut input.bytes);
        let held_since = input.held_since;
        if !self.holds_input(slot)
            && let Some(since) = held_since
        {
            self.conns[slot].input_mut().held_since = None;
            self.note_held_input(slot, since);
        }
        // What is read may come back here.
        let former = self.reading_held.replace(slot);
        let consumed = self.read(slot, &bytes);
        if consumed == 0 {
            // The usual case of a frame that arrives in small pieces: the buffer stays, nothing is copied.
            let conn = &mut self.conns[slot];
            if conn.is_open() {
                conn.input_mut().bytes = bytes;
                conn.shed_input();
            }
            self.bound_held(slot);
        } else {
            self.keep(slot, &bytes[consumed..]);
        }
        self.reading_held = former;
        if self.conns[slot].has_peer_left && former != Some(slot) {
            self.end_input(slot, Hangup::Eof);
        }
    }

    /// The client has left. What it sent before is read first, as a message or a goodbye may be in it: TCP has acknowledged that. So
    /// the connection goes on while it waits for an answer, or for its turn.
    pub(super) fn end_input(&mut self, slot: Slot, how: Hangup) {
        if self.waits_for_hand_over(slot) {
            self.read_held(slot);
        }
        // Nothing behind a broken record or header is wanted.
        let is_sound = matches!(how, Hangup::Eof | Hangup::Cut(_));
        while is_sound && self.has_unread_end(slot) {
            self.conns[slot].has_peer_left = true;
            if !self.end_catch_up(slot) {
                return;
            }
        }
        self.close_hung_up(slot, how);
        // It may have been closing already. No peer is left that the close notice could reach.
        self.abort(slot);
    }

    /// Whether the connection has unread input that outlasts its client.
    pub(super) fn has_unread_end(&self, slot: Slot) -> bool {
        let conn = &self.conns[slot];
        let awaits_answer = conn.awaits_answer() && conn.transport != Transport::EventStream;
        // A hand-over waits for answers, but has no turns for held input: the end of the input reads that at once.
        let input = conn.input.as_ref().filter(|_| conn.is_open());
        input.is_some_and(|input| {
            let waits_for_turn = input.waits_for_turn && !self.is_input_held;
            !input.bytes.is_empty() && (awaits_answer || waits_for_turn)
        })
    }

    /// Keeps the unread tail of the input, if there is one.
    fn keep(&mut self, slot: Slot, rest: &[u8]) {
        let held_since = self.holds_input(slot).then_some(self.context.now);
        let conn = &mut self.conns[slot];
        if !conn.is_open() {
            return;
        }
        if !rest.is_empty() {
            let input = conn.input_mut();
            input.bytes.extend_from_slice(rest);
            input.held_since = held_since;
        }
        conn.shed_input();
        self.bound_held(slot);
    }

    /// Bounds input that is held while the connection waits for an answer. An incomplete frame is bounded by
    /// its own limits.
    fn bound_held(&mut self, slot: Slot) {
        let conn = &self.conns[slot];
        let held = conn.input.as_ref().map_or(0, |input| input.bytes.len());
        // Its rooms are held, which were bounded with the request that named them.
        if conn.transport == Transport::EventStream {
            return;
        }
        if held <= HELD_MAX + self.context.limits.body_max {
            return;
        }
        if self.waits_for_hand_over(slot) {
            self.read_held(slot);
        } else {
            self.close(slot, CloseReason::InputOverflow, "");
        }
    }

    /// Reads as much of `input` as may be read now; returns how many bytes that was.
    fn read(&mut self, slot: Slot, input: &[u8]) -> usize {
        let mut consumed = 0;
        while consumed < input.len() && !self.holds_input(slot) {
            if self.conns[slot].is_deflated && self.holds_deflated(slot) {
                break;
            }
            // A frame is counted once it is whole, in however many pieces it comes.
            if !self.may_send(slot, RateEvent::PartOfFrame) {
                return input.len();
            }
            let rest = &input[consumed..];
            let conn = &self.conns[slot];
            let step = match (conn.transport, &conn.state) {
                (_, ConnState::Upgrading) => self.upgrade(slot, rest),
                (Transport::Tcp | Transport::EventStream, _) => self.read_frame(slot, rest),
                (Transport::WebSocket, _) => self.read_message(slot, rest),
            };
            match step {
                ReadStep::Consumed(bytes) => consumed += bytes,
                ReadStep::Incomplete => {
                    self.idle.note_activity(self.context.now);
                    break;
                }
                ReadStep::Closed => return input.len(),
            }
            if !self.conns[slot].is_open() || !self.may_send(slot, RateEvent::Frame) {
                return input.len();
            }
        }
        consumed
    }

    fn upgrade(&mut self, slot: Slot, input: &[u8]) -> ReadStep {
        self.idle.note_activity(self.context.now);
        if sse::is_request(input) && &*self.context.limits.path != sse::PATH {
            return self.open_stream(slot, input);
        }
        let limits = &self.context.limits;
        match websocket::upgrade(input, &limits.path, limits.head_max) {
            Ok(None) => ReadStep::Incomplete,
            Ok(Some(upgrade)) if !self.allows(upgrade.origin.as_deref()) => {
                self.reply_with(slot, Encoded::verbatim(FORBIDDEN));
                let origin = upgrade.origin.unwrap_or_default();
                let detail = format!("pages of the origin {origin:?} may not connect");
                self.close(slot, CloseReason::BadUpgrade, &detail);
                ReadStep::Closed
            }
            Ok(Some(mut upgrade)) => {
                if limits.deflate.is_some() && upgrade.accept_deflate() {
                    self.conns[slot].is_deflated = true;
                    self.counters.deflated_connections += 1;
                }
                self.conns[slot].state = ConnState::AwaitingAuth;
                if upgrade.cookie.is_some() {
                    self.conns[slot].input_mut().cookie = upgrade.cookie;
                }
                self.reply_with(slot, Encoded::verbatim(&upgrade.response));
                ReadStep::Consumed(upgrade.consumed)
            }
            Err(fault) => {
                self.reply_with(slot, Encoded::verbatim(&fault.response()));
                self.close(slot, CloseReason::BadUpgrade, &fault.to_string());
                ReadStep::Closed
            }
        }
    }

    /// Whether pages of `origin` may connect. Clients other than browsers send no origin.
    pub(super) fn allows(&self, origin: Option<&str>) -> bool {
        let patterns = &self.context.limits.origins;
        let (false, Some(origin)) = (patterns.is_empty(), origin) else { return true };
        Origin::parse(origin)
            .is_some_and(|origin| patterns.iter().any(|pattern| pattern.matches(&origin)))
    }

    pub(super) fn read_frame(&mut self, slot: Slot, input: &[u8]) -> ReadStep {
        let body_max = match self.conns[slot].transport {
            // The frames are made here, of names whose length was looked at.
            Transport::EventStream => input.len(),
            Transport::Tcp | Transport::WebSocket => self.context.limits.body_max,
        };
        match decode(input, body_max) {
            Ok(None) => ReadStep::Incomplete,
            Ok(Some((frame, consumed))) => {
                self.handle_frame(slot, frame);
                ReadStep::Consumed(consumed)
            }
            Err(fault) => {
                self.close(slot, CloseReason::BadFrame, &fault.to_string());
                ReadStep::Closed
            }
        }
    }

    fn read_message(&mut self, slot: Slot, input: &[u8]) -> ReadStep {
        let message_max = HEADER_LEN + self.context.limits.body_max;
        let conn = &mut self.conns[slot];
        // A client chooses its form with its token. Nothing that depends on it was sent to it before.
        let kinds = match conn.state {
            _ if conn.is_text => MessageKinds::Text,
            ConnState::AwaitingAuth if self.context.limits.text => MessageKinds::Any,
            _ => MessageKinds::Binary,
        };
        let accepted = Accepted { message_max, kinds, deflate: conn.is_deflated };
        let mut fragments = conn.input.as_mut().and_then(|input| input.fragments.take());
        let mut scratch = std::mem::take(&mut self.scratch);
        let step = match websocket::read(input, &mut fragments, &mut scratch, accepted) {
            Ok(None) => ReadStep::Incomplete,
            Ok(Some((Event::Compressed { payload, is_text }, consumed))) => {
                self.handle_compressed(slot, payload, is_text, message_max);
                ReadStep::Consumed(consumed)
            }
            Ok(Some((event, consumed))) => {
                self.handle_event(slot, event);
                ReadStep::Consumed(consumed)
            }
            Err(fault) => {
                self.close_for_fault(slot, &fault);
                ReadStep::Closed
            }
        };
        self.scratch = scratch;
        if fragments.is_some() && self.conns[slot].is_open() {
            self.conns[slot].input_mut().fragments = fragments;
        }
        step
    }

    pub(super) fn handle_event(&mut self, slot: Slot, event: Event<'_>) {
        match event {
            Event::Compressed { .. } => unreachable!("is inflated first"),
            // One frame in one message, as goim's clients send and goim's server reads.
            Event::Message(message) => match decode(message, self.context.limits.body_max) {
                Ok(Some((frame, consumed))) if consumed == message.len() => {
                    self.handle_frame(slot, frame);
                }
                Ok(_) => {
                    let detail = "a WebSocket message is one whole frame";
                    self.close(slot, CloseReason::BadFrame, detail);
                }
                Err(fault) => self.close(slot, CloseReason::BadFrame, &fault.to_string()),
            },
            Event::Text(message) => {
                self.conns[slot].is_text = true;
                match text::read(message) {
                    Ok(request) => self.handle_frame(slot, request.frame()),
                    Err(fault) => self.close(slot, CloseReason::BadFrame, &fault.to_string()),
                }
            }
            Event::Ping(payload) => {
                self.idle.note_activity(self.context.now);
                self.reply_with(slot, Encoded::pong(payload));
            }
            Event::Fragment => self.idle.note_activity(self.context.now),
            Event::Pong => {}
            Event::Close(code) => self.close_for_peer(slot, code),
        }
    }
}
