//! Membership: how connections join rooms and leave them, and the join request to a room's home.
//!
//! A connection has one room that operation 12 changes. In protocol 2 it may be in further rooms.

use std::sync::Arc;

use comet_proto::{JoinReply, Position, VERSION_2, op};

use crate::budget::{self, Budget};
use crate::canary::Canary;
use crate::ids::Slot;
use crate::message::{Message, TraceKind};
use crate::room::{Membership, Moved, Room, RoomId, Waiting};
use crate::state::{AwaitedReply, ConnState};

use super::Shard;

/// This many connections that waited for a room are answered at once, and any others in slices of a turn.
const WAITING_AT_ONCE: usize = 64;

impl Shard {
    /// Puts a connection into `room`, in which it is not yet: as a further room if the reply is [`op::JOIN_REPLY`],
    /// else as its first room. The reply is sent once pushes to the room reach the connection.
    pub(super) fn join(&mut self, slot: Slot, room: &str, reply: AwaitedReply) {
        let id = self.find_or_ask(room);
        if self.rooms[id].is_open() {
            self.enter(id, slot, reply.operation == op::JOIN_REPLY);
            return self.answer_in_room(id, slot, reply, true);
        }
        self.conns[slot].state = ConnState::Joining { reply };
        self.wait_for_home(id, slot, Some(reply));
    }

    /// Makes a connection wait for the answer of the room's home.
    pub(super) fn wait_for_home(&mut self, id: RoomId, slot: Slot, reply: Option<AwaitedReply>) {
        let conn = self.conns.id(slot).local();
        self.rooms[id].waiting.push(Waiting { conn, reply });
    }

    /// Finds or creates the room called `name`. The home of a new one is asked to send its pushes to this shard, and
    /// for the room's position if the room keeps a history.
    pub(super) fn find_or_ask(&mut self, name: &str) -> RoomId {
        let (id, is_new) = self.rooms.find_or_create(name);
        if is_new {
            let (room, shard) = (Arc::clone(&self.rooms[id].name), self.context.shard);
            let home = self.context.home_of_room(&room);
            self.messages.send(home, Message::JoinRoom { shard, room });
            if self.context.limits.history_rule(name).is_some() {
                self.ask_position(id);
            }
        } else {
            self.ask_position_in_stream(id);
        }
        id
    }

    /// The home has answered: pushes to the room reach this shard from this point.
    pub(super) fn room_joined(&mut self, name: &str, elsewhere: u32) {
        // A room stays on the shard until it is joined, even if its connections have closed. So at most one join request
        // per room is under way, and each answer finds the room that asked.
        let id = self.rooms.find(name).expect("a room waits for its home's answer");
        let room = &mut self.rooms[id];
        assert!(!room.is_joined, "a home answers once");
        room.is_joined = true;
        room.elsewhere = elsewhere;
        self.let_in(id);
    }

    /// Begins to make waiting connections members, if everything about the room is known.
    pub(super) fn let_in(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        // The position may be told twice, but the room may be on the list only once, because it may end when they have
        // entered.
        if !room.is_open() || room.is_letting_in {
            return;
        }
        if room.waiting.is_empty() {
            // Its connections have asked for its history, and some may have entered before this answer.
            self.rooms.mark(id);
            return self.remove_if_empty(id);
        }
        room.is_letting_in = true;
        self.joined.push_back(id);
        self.answer_joined(&mut Budget::new(WAITING_AT_ONCE * budget::ANSWER));
    }

    /// Makes connections members of rooms whose homes have answered, and sends the replies.
    pub(super) fn answer_joined(&mut self, budget: &mut Budget) {
        while budget.is_left()
            && let Some(&id) = self.joined.front()
        {
            let Room { waiting, is_letting_in, .. } = &mut self.rooms[id];
            let next = waiting.pop();
            // The input that the last connection held may make it leave, and then the room ends.
            if waiting.is_empty() {
                // A room waits for its home only once, so the memory is not needed again.
                *waiting = Vec::new();
                *is_letting_in = false;
                self.joined.pop_front();
                // While connections wait, a due count is left out. If the last of them does not enter, no other change
                // would send it.
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
        let Some(reply) = reply else { return self.enter_ordered(id, conn) };
        // The connection may have closed since. It cannot have asked for another room, because its input is held.
        let waits = |state: &ConnState| matches!(*state, ConnState::Joining { reply: asked } if asked == reply);
        if !self.conns.get(conn).is_some_and(|entry| waits(&entry.state)) {
            return self.remove_if_empty(id);
        }
        let is_further = reply.operation == op::JOIN_REPLY;
        // The connection may have entered the room by order of the server meanwhile.
        let is_new = !self.is_in(conn.slot, id);
        if is_new {
            self.enter(id, conn.slot, is_further);
        } else if !is_further {
            self.promote(conn.slot, id);
        }
        self.answer_in_room(id, conn.slot, reply, is_new);
    }

    /// The connection is in the room that it asked for. It entered just before if `is_new`. As in goim, the reply to a
    /// change of the room has the request's body. In protocol 2 the room's handle follows, before any push to the room.
    fn answer_in_room(&mut self, id: RoomId, slot: Slot, reply: AwaitedReply, is_new: bool) {
        let name = Arc::clone(&self.rooms[id].name);
        if reply.operation == op::JOIN_REPLY {
            let position = self.position_in(id, slot).filter(|_| is_new);
            let joined = JoinReply { position, ..JoinReply::joined(id.handle(), name.as_bytes()) };
            return self.answer(slot, reply, &joined.encode());
        }
        self.conns[slot].state = ConnState::Live;
        if reply.operation == op::AUTH_REPLY {
            self.reply_to_token(slot, reply);
        } else {
            self.reply(slot, reply, name.as_bytes());
        }
        self.announce_room(slot, id, is_new);
        if reply.operation == op::AUTH_REPLY {
            self.enter_rooms_at_start(slot);
        }
        self.resume_reading(slot);
    }

    /// Tells a client that knows of several rooms the handle of the room that operation 12 changes. Only a new member
    /// is told the position: an older one may still lose pushes that wait in front of this reply.
    pub(super) fn announce_room(&mut self, slot: Slot, id: RoomId, is_new: bool) {
        if self.conns[slot].knows_rooms() {
            let name = Arc::clone(&self.rooms[id].name);
            let position = self.position_in(id, slot).filter(|_| is_new);
            let told = JoinReply { position, ..JoinReply::primary(id.handle(), name.as_bytes()) };
            let reply = AwaitedReply { version: VERSION_2, operation: op::JOIN_REPLY, sequence: 0 };
            self.reply(slot, reply, &told.encode());
        }
    }

    /// The position up to which a member has the pushes to a room with a history.
    pub(super) fn position_in(&self, id: RoomId, slot: Slot) -> Option<Position> {
        let first = Some(self.conns[slot].room).filter(|membership| membership.room() == Some(id));
        let membership = first.or_else(|| self.further_rooms.find(slot, id))?;
        self.rooms[id].watermark_of(membership)
    }

    /// Makes a connection a member. It must not be one.
    pub(super) fn enter(&mut self, id: RoomId, slot: Slot, is_further: bool) {
        let (membership, moved) = self.rooms.enter(id, slot);
        if is_further {
            self.conns[slot].has_further_rooms = true;
            self.further_rooms.insert(slot, membership);
        } else {
            self.conns[slot].room = membership;
        }
        if let Some(moved) = moved {
            self.update_index(moved);
        }
        self.trace_moved(slot, id, |room| TraceKind::Joined { room });
        self.note_presence(slot, id, true);
    }

    /// A member has moved to another index in its room's list.
    fn update_index(&mut self, Moved { slot, membership }: Moved) {
        let room = &mut self.conns[slot].room;
        if room.room() == membership.room() {
            *room = membership;
        } else {
            self.further_rooms.update(slot, membership);
        }
    }

    /// Removes a connection from its room, if it is in one. If it was the last member, the home is told at once.
    pub(super) fn leave(&mut self, slot: Slot) {
        let membership = std::mem::replace(&mut self.conns[slot].room, Membership::NONE);
        if membership.room().is_some() {
            self.end_membership(slot, membership);
        }
    }

    /// Removes a connection from a further room. `false`: it is not in it.
    pub(super) fn leave_further(&mut self, slot: Slot, id: RoomId) -> bool {
        let Some(membership) = self.further_rooms.remove(slot, id) else { return false };
        self.conns[slot].has_further_rooms = !self.further_rooms.of(slot).is_empty();
        self.end_membership(slot, membership);
        true
    }

    /// Removes a connection from all rooms.
    pub(super) fn leave_all(&mut self, slot: Slot) {
        self.leave(slot);
        if std::mem::take(&mut self.conns[slot].has_further_rooms) {
            while let Some(membership) = self.further_rooms.pop(slot) {
                self.end_membership(slot, membership);
            }
        }
    }

    /// Makes a further room of a connection the one that operation 12 changes. The connection must not have such a
    /// room.
    pub(super) fn promote(&mut self, slot: Slot, id: RoomId) {
        let conn = &mut self.conns[slot];
        debug_assert!(conn.room == Membership::NONE);
        conn.room = self.further_rooms.remove(slot, id).expect("it is in the room");
        conn.has_further_rooms = !self.further_rooms.of(slot).is_empty();
    }

    /// Whether the connection is in the room, as its first or a further one.
    pub(super) fn is_in(&self, slot: Slot, id: RoomId) -> bool {
        let conn = &self.conns[slot];
        conn.room.room() == Some(id)
            || (conn.has_further_rooms && self.further_rooms.contains(slot, id))
    }

    /// The number of rooms that the connection is in.
    pub(super) fn rooms_of(&self, slot: Slot) -> usize {
        usize::from(self.conns[slot].room.room().is_some()) + self.further_rooms.of(slot).len()
    }

    fn end_membership(&mut self, slot: Slot, membership: Membership) {
        let id = membership.id();
        self.note_presence(slot, id, false);
        self.gaps.leave(slot, id);
        for moved in self.rooms.leave(slot, membership).into_iter().flatten() {
            self.update_index(moved);
        }
        if self.conns[slot].is_open() {
            self.trace_moved(slot, id, |room| TraceKind::Left { room });
        }
        self.remove_if_empty(id);
    }

    pub(super) fn remove_if_empty(&mut self, id: RoomId) {
        if let Some(room) = self.rooms.remove_if_empty(id)
            && !Canary::ForgottenRoom.is_released()
        {
            let (home, shard) = (self.context.home_of_room(&room), self.context.shard);
            self.messages.send(home, Message::RoomMembers { shard, room, members: 0 });
        }
    }

    /// Sends the reply that a client waited for, and continues reading the input that was held.
    pub(super) fn answer(&mut self, slot: Slot, reply: AwaitedReply, body: &[u8]) {
        self.conns[slot].state = ConnState::Live;
        self.reply(slot, reply, body);
        self.resume_reading(slot);
    }
}
