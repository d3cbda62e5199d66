//! Room counts: how many members a room has on all shards and hosts.
//!
//! Each shard reports its members to the room's home, and the home reports to each shard how many there are
//! elsewhere. Both send what changed every [`ROOM_COUNT_MS`].

use crate::ids::Slot;
use crate::limits::ROOM_COUNT_MS;
use crate::message::Message;

use super::Shard;

impl Shard {
    /// Members of the room that `slot` is in, on all shards and hosts; 0 without a room.
    pub(super) fn online(&self, slot: Slot) -> u32 {
        self.conns[slot].room.room().map_or(0, |id| {
            let room = &self.rooms[id];
            room.elsewhere.saturating_add(room.members.len() as u32)
        })
    }

    pub(super) fn set_elsewhere(&mut self, room: &str, elsewhere: u32) {
        if let Some(id) = self.rooms.find(room) {
            self.rooms[id].elsewhere = elsewhere;
        }
    }

    /// Sends the counts that changed and forgets what was retained long enough, if that is due.
    pub(super) fn count_rooms(&mut self) {
        let now = self.context.now;
        if now < self.next_room_counts {
            return;
        }
        self.next_room_counts = now.after(ROOM_COUNT_MS);
        self.send_room_counts();
        self.home.expire_retained(
            self.context.clock.active(),
            self.context.user_retention_ms(),
            self.context.key_retention_ms(),
        );
    }

    fn send_room_counts(&mut self) {
        // While counts of an earlier step wait for a peer none are added. Later counts replace them, so the
        // queue does not grow.
        if self.messages.has_room_counts() {
            return;
        }
        let shard = self.context.shard;
        for (room, members) in self.rooms.take_changed() {
            let home = self.context.home_of_room(&room);
            self.messages.send(home, Message::RoomMembers { shard, room, members });
        }
        for (shard, room, elsewhere) in self.home.rooms.take_changed() {
            self.messages.send(shard, Message::RoomOnline { room, elsewhere });
        }
    }
}
