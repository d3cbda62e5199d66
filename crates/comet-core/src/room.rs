//! The rooms with members on this shard: dense member lists, so that a push is a linear walk.

use std::sync::Arc;

use ahash::{AHashMap, RandomState};

use crate::conn::{Conn, Reply};
use crate::slab::{NONE, Slab};

/// Where a connection stands in its room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Membership {
    room: u32,
    position: u32,
}

impl Membership {
    pub(crate) const NONE: Self = Self { room: NONE, position: NONE };

    pub(crate) fn room(self) -> Option<u32> {
        (self.room != NONE).then_some(self.room)
    }
}

/// A connection that waits for the room's home.
pub(crate) struct Waiting {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) reply: Reply,
}

pub(crate) struct Room {
    pub(crate) name: Arc<str>,
    /// Slots; a connection knows its position.
    pub(crate) members: Vec<u32>,
    /// Who joins once the home knows of this shard.
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) is_joined: bool,
    /// Members on other shards and hosts, as the home last said.
    pub(crate) elsewhere: u32,
    /// In the list of rooms whose home does not know the present count.
    pub(crate) is_dirty: bool,
}

pub(crate) struct Rooms {
    rooms: Slab<Room>,
    names: AHashMap<Arc<str>, u32>,
    dirty: Vec<Arc<str>>,
}

impl Rooms {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rooms: Slab::new(),
            names: AHashMap::with_hasher(RandomState::with_seeds(seed, 1, 2, 3)),
            dirty: Vec::new(),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// The room called `name`; the flag says that it is new and its home must be asked.
    pub(crate) fn find_or_create(&mut self, name: &str) -> (u32, bool) {
        if let Some(index) = self.find(name) {
            return (index, false);
        }
        let name: Arc<str> = name.into();
        let index = self.rooms.insert(Room {
            name: Arc::clone(&name),
            members: Vec::new(),
            waiting: Vec::new(),
            is_joined: false,
            elsewhere: 0,
            is_dirty: false,
        });
        self.names.insert(name, index);
        (index, true)
    }

    /// Puts the connection in `slot` into the room.
    pub(crate) fn enter(&mut self, index: u32, slot: u32, conn: &mut Conn) {
        debug_assert!(conn.room.room().is_none(), "a connection is in one room");
        let room = &mut self.rooms[index];
        conn.room = Membership {
            room: index,
            position: u32::try_from(room.members.len()).expect("members are slots, u32"),
        };
        room.members.push(slot);
        self.mark(index);
    }

    /// Takes `conn` out of its room in O(1). The caller looks with [`Rooms::remove_if_empty`].
    pub(crate) fn leave(&mut self, slot: u32, conns: &mut Slab<Conn>) -> Option<u32> {
        let membership = std::mem::replace(&mut conns[slot].room, Membership::NONE);
        let index = membership.room()?;
        let members = &mut self.rooms[index].members;
        let removed = members.swap_remove(membership.position as usize);
        assert_eq!(removed, slot, "a member knows its position");
        if let Some(&moved) = members.get(membership.position as usize) {
            conns[moved].room.position = membership.position;
        }
        // Long lists that shrank give their memory back, with room to grow again.
        if members.len() < members.capacity() / 4 && members.capacity() > 64 {
            members.shrink_to(members.len() * 2);
        }
        self.mark(index);
        Some(index)
    }

    /// Forgets a room nobody is in or waits for; returns its name.
    pub(crate) fn remove_if_empty(&mut self, index: u32) -> Option<Arc<str>> {
        let room = &self.rooms[index];
        if !room.members.is_empty() || !room.waiting.is_empty() {
            return None;
        }
        let room = self.rooms.remove(index);
        self.names.remove(&room.name);
        Some(room.name)
    }

    fn mark(&mut self, index: u32) {
        let room = &mut self.rooms[index];
        if !room.is_dirty {
            room.is_dirty = true;
            self.dirty.push(Arc::clone(&room.name));
        }
    }

    /// The rooms whose member count changed since the last call, with the present count.
    pub(crate) fn take_changed(&mut self) -> Vec<(Arc<str>, u32)> {
        let mut changed = Vec::with_capacity(self.dirty.len());
        for name in std::mem::take(&mut self.dirty) {
            if let Some(&index) = self.names.get(&name) {
                let room = &mut self.rooms[index];
                // A room still asking has told its home nothing yet; the answer brings it back here.
                if std::mem::take(&mut room.is_dirty) && room.is_joined {
                    changed.push((name, room.members.len() as u32));
                }
            }
        }
        changed
    }

    pub(crate) fn has_changed(&self) -> bool {
        !self.dirty.is_empty()
    }
}

impl std::ops::Index<u32> for Rooms {
    type Output = Room;

    fn index(&self, index: u32) -> &Room {
        &self.rooms[index]
    }
}

impl std::ops::IndexMut<u32> for Rooms {
    fn index_mut(&mut self, index: u32) -> &mut Room {
        &mut self.rooms[index]
    }
}
