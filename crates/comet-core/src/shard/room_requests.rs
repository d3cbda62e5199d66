//! Requests of protocol 2 to enter and leave rooms. A request that is refused is answered and counted, and the
//! connection stays.

use std::sync::Arc;

use comet_proto::{Frame, Join, JoinReply, Leave, LeaveReply, RoomHandle, RoomRefusal, op};

use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::limits::NAME_MAX;
use crate::room::RoomId;
use crate::state::AwaitedReply;

use super::Shard;
use super::rate_limiter::RateEvent;

impl Shard {
    pub(super) fn room_request(&mut self, slot: Slot, frame: Frame<'_>) {
        if !self.may_send(slot, RateEvent::RoomChange) {
            return;
        }
        match frame.operation {
            op::JOIN => self.join_further(slot, frame),
            op::LEAVE => self.leave_by_handle(slot, frame),
            operation => {
                let detail = format!("operation {operation} is the server's");
                self.close(slot, CloseReason::BadFrame, &detail);
            }
        }
    }

    fn join_further(&mut self, slot: Slot, frame: Frame<'_>) {
        let reply = AwaitedReply::to(&frame, op::JOIN_REPLY);
        let room = Join::decode(frame.body).map_or(&b""[..], |join| join.room);
        let name = std::str::from_utf8(room).unwrap_or_default();
        let known = self.rooms.find(name).filter(|&id| self.is_in(slot, id));
        let since = Join::decode(frame.body).and_then(|join| join.since);
        let since = since.filter(|_| self.conns[slot].knows_rooms());
        let since = since.filter(|_| self.context.limits.history_rule(name).is_some());
        if let (Some(id), Some(since)) = (known, since) {
            return self.recover_again(slot, id, since, reply);
        }
        let refusal = if name.is_empty() || name.len() > NAME_MAX {
            RoomRefusal::BadName
        } else if known.is_none()
            && let Some(refusal) = self.refusal_of_further(slot)
        {
            refusal
        } else {
            let Some(id) = known else {
                return match since {
                    Some(since) => self.join_with_history(slot, name, since, reply),
                    None => self.join(slot, name, reply),
                };
            };
            let name = Arc::clone(&self.rooms[id].name);
            let joined = JoinReply::joined(id.handle(), name.as_bytes());
            return self.reply(slot, reply, &joined.encode());
        };
        self.counters.rooms_refused[refusal as usize - 1] += 1;
        self.reply(slot, reply, &JoinReply::refused(refusal, room).encode());
    }

    fn leave_by_handle(&mut self, slot: Slot, frame: Frame<'_>) {
        let handle = Leave::decode(frame.body).map_or(RoomHandle(u32::MAX), |leave| leave.handle);
        let id = RoomId::of_handle(handle);
        let outcome = if self.conns[slot].room.room() == Some(id) {
            self.leave(slot);
            Ok(())
        } else if self.leave_further(slot, id) {
            Ok(())
        } else {
            self.counters.rooms_refused[RoomRefusal::NoSuchHandle as usize - 1] += 1;
            Err(RoomRefusal::NoSuchHandle)
        };
        let body = LeaveReply { outcome, is_unasked: false, handle }.encode();
        self.reply(slot, AwaitedReply::to(&frame, op::LEAVE_REPLY), &body);
    }
}
