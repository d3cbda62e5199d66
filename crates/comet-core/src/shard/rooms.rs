//! Membership: how connections join rooms and leave them, and the join request to a room's home.

use std::sync::Arc;

use comet_proto::op;

use crate::budget::{self, Budget};
use crate::canary::Canary;
use crate::ids::Slot;
use crate::message::{Message, TraceKind};
use crate::room::{Membership, Moved, RoomId, Waiting};
use crate::state::{AwaitedReply, ConnState};

use super::Shard;

/// So many connections that waited for a room are answered in one go; more of them in slices of a turn.
const WAITING_AT_ONCE: usize = 64;

impl Shard {
    /// Puts a connection without a room into `room`. The reply is sent once pushes reach it there.
    pub(super) fn join(&mut self, slot: Slot, room: &str, reply: AwaitedReply) {
        let (id, is_new) = self.rooms.find_or_create(room);
        if self.rooms[id].is_joined {
            self.enter(id, slot);
            return self.answer_in_room(id, slot, reply);
        }
        let conn = self.conns.id(slot).local();
        self.conns[slot].state = ConnState::Joining { reply };
        let room = &mut self.rooms[id];
        room.waiting.push(Waiting { conn, reply });
        if is_new {
            let (room, shard) = (Arc::clone(&room.name), self.context.shard);
            let home = self.context.home_of_room(&room);
            self.messages.send(home, Message::JoinRoom { shard, room });
        }
    }

    /// The home has answered: pushes to the room reach this shard from here on.
    pub(super) fn room_joined(&mut self, name: &str, elsewhere: u32) {
        // A waiting connection pins its room on the shard, even after it closed. So at most one join request
        // per room is under way, and each answer finds the room that asked.
        let id = self.rooms.find(name).expect("a room waits for its home's answer");
        let room = &mut self.rooms[id];
        assert!(!room.is_joined, "a home answers once");
        room.is_joined = true;
        room.elsewhere = elsewhere;
        self.joined.push_back(id);
        self.answer_joined(&mut Budget::new(WAITING_AT_ONCE * budget::ANSWER));
    }

    /// Lets connections into the rooms that homes have answered for, and sends the replies.
    pub(super) fn answer_joined(&mut self, budget: &mut Budget) {
        while budget.is_left()
            && let Some(&id) = self.joined.front()
        {
            let waiting = &mut self.rooms[id].waiting;
            let next = waiting.pop();
            // The last one may leave with the input that it held, and the room ends with it.
            if waiting.is_empty() {
                self.joined.pop_front();
                // A count that was due before is left out while connections wait. If this one does not enter, no other
                // change would send it.
                self.rooms.mark(id);
            }
            budget.spend(budget::ANSWER);
            match next {
                Some(waiting) => self.enter_joined(id, waiting),
                None => self.remove_if_empty(id),
            }
        }
    }

    fn enter_joined(&mut self, id: RoomId, Waiting { conn, reply }: Waiting) {
        // It may have closed since. It cannot have asked for another room, because its input is held.
        let waits = |state: &ConnState| matches!(*state, ConnState::Joining { reply: asked } if asked == reply);
        if !self.conns.get(conn).is_some_and(|entry| waits(&entry.state)) {
            return self.remove_if_empty(id);
        }
        self.enter(id, conn.slot);
        self.answer_in_room(id, conn.slot, reply);
    }

    /// The connection is in the room that it asked for. As in goim, the reply to a change of the room has the
    /// request's body.
    fn answer_in_room(&mut self, id: RoomId, slot: Slot, reply: AwaitedReply) {
        if reply.operation == op::AUTH_REPLY {
            self.answer_auth(slot, reply);
        } else {
            let name = Arc::clone(&self.rooms[id].name);
            self.answer(slot, reply, name.as_bytes());
        }
    }

    fn enter(&mut self, id: RoomId, slot: Slot) {
        let (membership, moved) = self.rooms.enter(id, slot);
        self.conns[slot].room = membership;
        if let Some(Moved { slot, membership }) = moved {
            self.conns[slot].room = membership;
        }
        self.trace_moved(slot, id, |room| TraceKind::Joined { room });
    }

    /// Takes a connection out of its room, if it is in one. The home is told at once when that was the last
    /// member.
    pub(super) fn leave(&mut self, slot: Slot) {
        let membership = std::mem::replace(&mut self.conns[slot].room, Membership::NONE);
        let Some(id) = membership.room() else { return };
        for Moved { slot, membership } in self.rooms.leave(slot, membership).into_iter().flatten() {
            self.conns[slot].room = membership;
        }
        if self.conns[slot].is_open() {
            self.trace_moved(slot, id, |room| TraceKind::Left { room });
        }
        self.remove_if_empty(id);
    }

    fn remove_if_empty(&mut self, id: RoomId) {
        if let Some(room) = self.rooms.remove_if_empty(id)
            && !Canary::ForgottenRoom.is_released()
        {
            let (home, shard) = (self.context.home_of_room(&room), self.context.shard);
            self.messages.send(home, Message::RoomMembers { shard, room, members: 0 });
        }
    }

    /// Sends the reply that a client waited for, and reads on where its input was held.
    pub(super) fn answer(&mut self, slot: Slot, reply: AwaitedReply, body: &[u8]) {
        self.conns[slot].state = ConnState::Live;
        self.reply(slot, reply, body);
        self.resume(slot);
    }
}
