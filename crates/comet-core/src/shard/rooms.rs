//! Membership: how connections join rooms and leave them, and the join request to a room's home.

use std::sync::Arc;

use crate::canary::Canary;
use crate::ids::Slot;
use crate::message::Message;
use crate::room::{Membership, Moved, RoomId, Waiting};
use crate::state::{AwaitedReply, ConnState};

use super::Shard;

impl Shard {
    /// Puts a connection without a room into `room`. The reply is sent once pushes reach it there.
    pub(super) fn join(&mut self, slot: Slot, room: &str, reply: AwaitedReply) {
        let (id, is_new) = self.rooms.find_or_create(room);
        if self.rooms[id].is_joined {
            self.conns[slot].room = self.rooms.enter(id, slot);
            return self.answer(slot, reply, b"");
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
        let mut waiting = std::mem::take(&mut room.waiting);
        waiting.retain(|&Waiting { conn, reply }| {
            let Some(entry) = self.conns.get(conn) else { return false };
            // It may have closed since. It cannot have asked for another room, because its input is held.
            let waits =
                matches!(entry.state, ConnState::Joining { reply: asked } if asked == reply);
            if waits {
                entry.state = ConnState::Live;
                entry.room = self.rooms.enter(id, conn.slot);
            }
            waits
        });
        self.remove_if_empty(id);
        // The replies come last: a client that reads on may leave, and remove the room if it was alone.
        for Waiting { conn, reply } in waiting {
            self.answer(conn.slot, reply, b"");
        }
    }

    /// Takes a connection out of its room, if it is in one. The home is told at once when that was the last
    /// member.
    pub(super) fn leave(&mut self, slot: Slot) {
        let membership = std::mem::replace(&mut self.conns[slot].room, Membership::NONE);
        let Some(id) = membership.room() else { return };
        if let Some(Moved { slot, membership }) = self.rooms.leave(slot, membership) {
            self.conns[slot].room = membership;
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
        self.reply(slot, reply.operation, reply.sequence, body);
        self.resume(slot);
    }
}
