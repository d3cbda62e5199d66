//! The operations of clients, and what each of them does.

use comet_proto::{Frame, VERSION_2, op};

use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::limits::{ACCEPTS_MAX, NAME_MAX, TICK_MS};
use crate::state::{AwaitedReply, ConnState};

use super::Shard;
use super::rate_limiter::RateEvent;

/// The answer of goim v1.2 to operation 254.
const TEST_BODY: &[u8] = br#"{"test":"come on"}"#;

impl Shard {
    pub(super) fn handle_frame(&mut self, slot: Slot, frame: Frame<'_>) {
        self.counters.frames_in += 1;
        if self.conns[slot].is_traced {
            self.trace_read(slot, &frame);
        }
        let operation = frame.operation;
        if operation != op::HEARTBEAT {
            self.idle.note_activity(self.context.now);
        }
        if matches!(self.conns[slot].state, ConnState::AwaitingAuth) {
            if operation == op::AUTH {
                let conn = &mut self.conns[slot];
                conn.is_protocol_2 = frame.version == VERSION_2 && !conn.is_text;
                conn.is_kept &= conn.is_protocol_2;
                self.request_identity(slot, frame);
            } else if operation == op::KEEP && frame.version == VERSION_2 {
                self.conns[slot].is_kept = frame.body == [1];
            } else {
                // As in goim, frames before the token are ignored.
                self.counters.frames_ignored += 1;
            }
            return;
        }
        match operation {
            op::HEARTBEAT => self.heartbeat(slot, frame),
            op::RAW => {
                let detail = "operation 9 is the server's";
                self.close(slot, CloseReason::RawFromClient, detail);
            }
            op::CHANGE_ROOM => self.change_room(slot, frame),
            op::SUBSCRIBE | op::UNSUBSCRIBE => self.change_accepts(slot, frame),
            op::JOIN..=op::GAP if self.conns[slot].knows_rooms() => {
                self.room_request(slot, frame);
            }
            // The body says whether the session is to be kept. A session that was not kept before stays so.
            op::KEEP if self.conns[slot].is_protocol_2 => {
                self.conns[slot].is_kept &= frame.body == [1];
            }
            op::AUTH if self.conns[slot].is_protocol_2 => self.renew_token(slot, frame),
            op::TEST if self.conns[slot].is_text => {
                self.reply(slot, AwaitedReply::to(&frame, op::TEST_REPLY), TEST_BODY);
            }
            _ => self.receive(slot, frame),
        }
    }

    fn heartbeat(&mut self, slot: Slot, frame: Frame<'_>) {
        self.counters.heartbeats += 1;
        self.idle.note_heartbeat(self.context.now);
        let former = self.conns[slot].deadline;
        self.set_deadline(slot, self.heartbeat_ms(slot));
        let moved = self.conns[slot].deadline.0.saturating_sub(former.0);
        // A client with such a short interval measures the latency, so heartbeats are not delayed.
        if u64::from(moved) * TICK_MS < self.context.limits.coalesce_after_ms.into() {
            self.idle.note_activity(self.context.now);
        }
        self.renew(slot);
        let online = i32::try_from(self.online(slot)).unwrap_or(i32::MAX).to_be_bytes();
        // goim v1.2 sends no number.
        let body: &[u8] = if self.conns[slot].is_text { b"" } else { &online };
        self.reply(slot, AwaitedReply::to(&frame, op::HEARTBEAT_REPLY), body);
    }

    fn change_room(&mut self, slot: Slot, frame: Frame<'_>) {
        if !self.may_send(slot, RateEvent::RoomChange) {
            return;
        }
        let reply = AwaitedReply::to(&frame, op::CHANGE_ROOM_REPLY);
        let Ok(room) = std::str::from_utf8(frame.body) else {
            return self.close(slot, CloseReason::BadFrame, "a room id is UTF-8");
        };
        if room.len() > NAME_MAX {
            let detail = format!("a room id of {} bytes; at most {NAME_MAX} are taken", room.len());
            return self.close(slot, CloseReason::BadFrame, &detail);
        }
        let present = self.conns[slot].room.room().map(|id| &*self.rooms[id].name);
        if present != Some(room) {
            self.leave(slot);
            match self.rooms.find(room) {
                Some(id) if self.is_in(slot, id) => self.promote(slot, id),
                _ if room.is_empty() => {}
                _ => return self.join(slot, room, reply),
            }
        }
        self.reply(slot, reply, frame.body);
        if let Some(id) = self.conns[slot].room.room() {
            self.announce_room(slot, id, false);
        }
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
        // In all of goim's pairs the reply's operation is the request's plus one, and the body is the same.
        self.reply(slot, AwaitedReply::to(&frame, frame.operation + 1), frame.body);
    }
}

fn parse_operations(body: &[u8]) -> Option<Vec<i32>> {
    let text = std::str::from_utf8(body).ok()?;
    if text.is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|number| number.trim().parse().ok()).collect()
}
