//! Bytes from clients: upgrade, frames, operations.

use comet_proto::websocket::{self, Event};
use comet_proto::{Encoded, Frame, HEADER_LEN, decode, op};

use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::limits::{ACCEPTS_MAX, HELD_MAX, NAME_MAX, TICK_MS};
use crate::state::{AwaitedReply, ConnState};
use crate::transport::Transport;

use super::Shard;

/// What looking at the front of the input led to.
enum ReadStep {
    /// So many bytes are done with.
    Consumed(usize),
    /// Nothing to do until more comes.
    Incomplete,
    /// The connection is closing; the rest does not matter.
    Closed,
}

/// The answer to a page of an origin that is not listed.
const FORBIDDEN: &[u8] = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 38\r\n\r\n\
    Pages of this origin may not connect.\n";

impl Shard {
    /// Bytes came from the peer.
    pub fn handle_recv(&mut self, conn: ConnId, bytes: &[u8]) {
        let Some(slot) = self.slot(conn) else { return };
        self.counters.bytes_in += bytes.len() as u64;
        let entry = &mut self.conns[slot];
        if !entry.is_open() {
            return;
        }
        match &mut entry.input {
            // Nothing was left over: read from where the kernel put it.
            Some(input) if !input.bytes.is_empty() => {
                input.bytes.extend_from_slice(bytes);
                self.resume(slot);
            }
            _ => {
                let consumed = self.read(slot, bytes);
                self.keep(slot, &bytes[consumed..]);
            }
        }
        self.settle();
    }

    /// Reads what was kept for a connection that may read again.
    pub(super) fn resume(&mut self, slot: Slot) {
        let entry = &mut self.conns[slot];
        let Some(input) = &mut entry.input else {
            return;
        };
        let bytes = std::mem::take(&mut input.bytes);
        let consumed = self.read(slot, &bytes);
        if consumed == 0 {
            // The usual case of a frame that drips in: keep the buffer, copy nothing.
            let entry = &mut self.conns[slot];
            if entry.is_open() {
                entry.input_mut().bytes = bytes;
                entry.shed_input();
            }
            self.bound_held(slot);
        } else {
            self.keep(slot, &bytes[consumed..]);
        }
    }

    /// Keeps the unread tail of the input, if there is one.
    fn keep(&mut self, slot: Slot, rest: &[u8]) {
        let entry = &mut self.conns[slot];
        if !entry.is_open() {
            return;
        }
        if !rest.is_empty() {
            entry.input_mut().bytes.extend_from_slice(rest);
        }
        entry.shed_input();
        self.bound_held(slot);
    }

    /// An incomplete frame is bounded by its own limits; input that waits for an answer, here.
    fn bound_held(&mut self, slot: Slot) {
        let held = self.conns[slot].input.as_ref().map_or(0, |input| input.bytes.len());
        if held > HELD_MAX + self.limits.body_max {
            self.close(slot, CloseReason::InputOverflow, "");
        }
    }

    /// Reads as much of `input` as may be read now; returns how many bytes that was.
    fn read(&mut self, slot: Slot, input: &[u8]) -> usize {
        let mut consumed = 0;
        while consumed < input.len() && !self.conns[slot].holds_input() {
            let rest = &input[consumed..];
            let entry = &self.conns[slot];
            let step = match (entry.transport, &entry.state) {
                (_, ConnState::Upgrading) => self.upgrade(slot, rest),
                (Transport::Tcp, _) => self.read_frame(slot, rest),
                (Transport::WebSocket, _) => self.read_message(slot, rest),
            };
            match step {
                ReadStep::Consumed(bytes) => consumed += bytes,
                ReadStep::Incomplete => {
                    self.idle.note_activity(self.now);
                    break;
                }
                ReadStep::Closed => return input.len(),
            }
            if !self.conns[slot].is_open() {
                return input.len();
            }
        }
        consumed
    }

    fn upgrade(&mut self, slot: Slot, input: &[u8]) -> ReadStep {
        self.idle.note_activity(self.now);
        match websocket::upgrade(input, &self.limits.path, self.limits.head_max) {
            Ok(None) => ReadStep::Incomplete,
            Ok(Some(upgrade)) if !self.allows(upgrade.origin.as_deref()) => {
                self.reply_with(slot, Encoded::verbatim(FORBIDDEN));
                let origin = upgrade.origin.unwrap_or_default();
                let detail = format!("pages of the origin {origin:?} may not connect");
                self.close(slot, CloseReason::BadUpgrade, &detail);
                ReadStep::Closed
            }
            Ok(Some(upgrade)) => {
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

    /// What is no browser names no origin.
    fn allows(&self, origin: Option<&str>) -> bool {
        let origins = &self.limits.origins;
        let is_listed =
            |origin: &str| origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin));
        origins.is_empty() || origin.is_none_or(is_listed)
    }

    fn read_frame(&mut self, slot: Slot, input: &[u8]) -> ReadStep {
        match decode(input, self.limits.body_max) {
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
        let message_max = HEADER_LEN + self.limits.body_max;
        let entry = &mut self.conns[slot];
        let mut fragments = entry.input.as_mut().and_then(|input| input.fragments.take());
        let mut scratch = std::mem::take(&mut self.scratch);
        let step = match websocket::read(input, &mut fragments, &mut scratch, message_max) {
            Ok(None) => ReadStep::Incomplete,
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

    fn handle_event(&mut self, slot: Slot, event: Event<'_>) {
        match event {
            // One frame a message, as goim's clients send and goim's server reads.
            Event::Message(message) => match decode(message, self.limits.body_max) {
                Ok(Some((frame, consumed))) if consumed == message.len() => {
                    self.handle_frame(slot, frame);
                }
                Ok(_) => {
                    let detail = "a WebSocket message is one whole frame";
                    self.close(slot, CloseReason::BadFrame, detail);
                }
                Err(fault) => self.close(slot, CloseReason::BadFrame, &fault.to_string()),
            },
            Event::Ping(payload) => {
                self.idle.note_activity(self.now);
                self.reply_with(slot, Encoded::pong(payload));
            }
            Event::Fragment => self.idle.note_activity(self.now),
            Event::Pong => {}
            Event::Close(_) => self.close(slot, CloseReason::PeerClosed, ""),
        }
    }

    fn handle_frame(&mut self, slot: Slot, frame: Frame<'_>) {
        self.counters.frames_in += 1;
        if self.conns[slot].is_traced {
            self.note_read(slot, &frame);
        }
        let Frame { operation, sequence, body, .. } = frame;
        if operation != op::HEARTBEAT {
            self.idle.note_activity(self.now);
        }
        if matches!(self.conns[slot].state, ConnState::AwaitingAuth) {
            if operation == op::AUTH {
                self.ask_logic(slot, sequence, body);
            } else {
                // As goim: whatever comes before the token is read over.
                self.counters.frames_ignored += 1;
            }
            return;
        }
        match operation {
            op::HEARTBEAT => {
                self.counters.heartbeats += 1;
                self.idle.note_heartbeat(self.now);
                let past = self.conns[slot].deadline;
                self.set_deadline(slot, self.heartbeat_ms(slot));
                let moved = self.conns[slot].deadline.0.saturating_sub(past.0);
                if u64::from(moved) * TICK_MS < self.limits.coalesce_after_ms.into() {
                    self.idle.note_activity(self.now);
                }
                self.renew(slot);
                let online = i32::try_from(self.online(slot)).unwrap_or(i32::MAX);
                self.reply(slot, op::HEARTBEAT_REPLY, sequence, &online.to_be_bytes());
            }
            op::RAW => {
                let detail = "operation 9 is the server's";
                self.close(slot, CloseReason::RawFromClient, detail);
            }
            op::CHANGE_ROOM => self.change_room(slot, sequence, body),
            op::SUBSCRIBE | op::UNSUBSCRIBE => self.change_accepts(slot, frame),
            _ => self.receive(slot, frame),
        }
    }

    fn change_room(&mut self, slot: Slot, sequence: i32, body: &[u8]) {
        let reply = AwaitedReply { operation: op::CHANGE_ROOM_REPLY, sequence };
        let Ok(room) = std::str::from_utf8(body) else {
            return self.close(slot, CloseReason::BadFrame, "a room id is UTF-8");
        };
        if room.len() > NAME_MAX {
            let detail = format!("a room id of {} bytes; at most {NAME_MAX} are taken", room.len());
            return self.close(slot, CloseReason::BadFrame, &detail);
        }
        let present = self.conns[slot].room.room().map(|index| &*self.rooms[index].name);
        if present != Some(room) {
            self.leave(slot);
            if !room.is_empty() {
                return self.join(slot, room, reply);
            }
        }
        self.reply(slot, reply.operation, reply.sequence, b"");
    }

    fn change_accepts(&mut self, slot: Slot, frame: Frame<'_>) {
        let Some(operations) = parse_operations(frame.body) else {
            let detail = "operations are decimal numbers with commas between them";
            return self.close(slot, CloseReason::BadFrame, detail);
        };
        let accepts = &mut self.conns[slot].accepts;
        if frame.operation == op::SUBSCRIBE {
            accepts.subscribe(&operations);
        } else {
            accepts.unsubscribe(&operations);
        }
        if accepts.listed() > ACCEPTS_MAX {
            let detail = format!("more than {ACCEPTS_MAX} operations");
            return self.close(slot, CloseReason::BadFrame, &detail);
        }
        // The reply's operation is the request's and one, for all of goim's pairs.
        self.reply(slot, frame.operation + 1, frame.sequence, b"");
    }
}

fn parse_operations(body: &[u8]) -> Option<Vec<i32>> {
    let text = std::str::from_utf8(body).ok()?;
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|number| number.trim().parse().ok()).collect()
}
