//! Rooms that another process has handed over.

use std::sync::Arc;

use comet_proto::{Position as HistoryPosition, RoomHandle};

use crate::ids::Slot;

use super::{MemberIndex, Membership, Room, RoomId, Rooms, Watermark};

impl Rooms {
    /// Takes rooms over under their handles. There must be no rooms yet. Their homes know about this shard.
    pub(crate) fn take_over(
        &mut self,
        rooms: impl Iterator<Item = (RoomHandle, Arc<str>, u32, Option<HistoryPosition>)>,
    ) {
        let Self { rooms: all, names, dirty: _ } = self;
        all.place(rooms.map(|(handle, name, elsewhere, position)| {
            let id = RoomId::of_handle(handle);
            names.insert(Arc::clone(&name), id);
            let room = Room {
                name,
                members: Vec::new(),
                waiting: Vec::new(),
                recovering: 0,
                is_joined: true,
                awaits_position: false,
                offered: 0,
                under_way: None,
                // The room's home begins with the same number.
                watermark: position.map(|position| Watermark { position, number: position.offset }),
                elsewhere,
                is_dirty: false,
                is_letting_in: false,
            };
            (id, room)
        }));
    }

    /// All rooms, by handle.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RoomId, &Room)> {
        self.rooms.indices().filter(|&id| self.rooms.is_taken(id)).map(|id| (id, &self.rooms[id]))
    }

    /// Appends a connection to the members of a room that was taken over. The room's home has counted it.
    pub(crate) fn take_over_member(&mut self, room: RoomId, slot: Slot) -> Membership {
        let members = &mut self.rooms[room].members;
        let index = MemberIndex(members.len() as u32);
        members.push(slot);
        Membership { room, index }
    }
}
