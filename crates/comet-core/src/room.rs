//! The rooms with members on this shard. Each has a dense list of members, so that a push is a linear walk.

use std::sync::Arc;

use ahash::{AHashMap, RandomState};

use crate::ids::{LocalConnId, Slot};
use crate::index::{Index, index};
use crate::slab::Slab;
use crate::state::AwaitedReply;

/// A room of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub(crate) struct RoomId(u32);

index!(RoomId);

/// A place in a room's list of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct Position(u32);

impl Position {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a connection is in its room's list of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Membership {
    room: RoomId,
    position: Position,
}

impl Membership {
    pub(crate) const NONE: Self = Self { room: RoomId::NONE, position: Position(u32::MAX) };

    pub(crate) fn room(self) -> Option<RoomId> {
        (self.room != RoomId::NONE).then_some(self.room)
    }
}

/// A connection that waits for the room's home to answer.
pub(crate) struct Waiting {
    pub(crate) conn: LocalConnId,
    pub(crate) reply: AwaitedReply,
}

pub(crate) struct Room {
    pub(crate) name: Arc<str>,
    /// Slots. A connection knows its position.
    pub(crate) members: Vec<Slot>,
    /// Connections that become members once the home knows of this shard.
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) is_joined: bool,
    /// Members on other shards and hosts, as the home last reported.
    pub(crate) elsewhere: u32,
    /// In the list of rooms whose home does not know the present count.
    pub(crate) is_dirty: bool,
}

/// A member that took the position of one that left.
pub(crate) struct Moved {
    pub(crate) slot: Slot,
    pub(crate) membership: Membership,
}

pub(crate) struct Rooms {
    rooms: Slab<RoomId, Room>,
    names: AHashMap<Arc<str>, RoomId>,
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

    pub(crate) fn find(&self, name: &str) -> Option<RoomId> {
        self.names.get(name).copied()
    }

    /// The room called `name`. The flag says that it is new, and its home must be asked to join.
    pub(crate) fn find_or_create(&mut self, name: &str) -> (RoomId, bool) {
        if let Some(room) = self.find(name) {
            return (room, false);
        }
        let name: Arc<str> = name.into();
        let room = self.rooms.insert(Room {
            name: Arc::clone(&name),
            members: Vec::new(),
            waiting: Vec::new(),
            is_joined: false,
            elsewhere: 0,
            is_dirty: false,
        });
        self.names.insert(name, room);
        (room, true)
    }

    /// Appends the connection in `slot`, which must be in no room, to the members. The caller keeps the
    /// result with the connection.
    #[must_use]
    pub(crate) fn enter(&mut self, room: RoomId, slot: Slot) -> Membership {
        let members = &mut self.rooms[room].members;
        let position = u32::try_from(members.len()).expect("members are slots, u32");
        members.push(slot);
        self.mark(room);
        Membership { room, position: Position(position) }
    }

    /// Removes the connection in `slot` from its room in O(1). The caller stores the result with the member
    /// that moved, and then calls [`Rooms::remove_if_empty`].
    #[must_use]
    pub(crate) fn leave(&mut self, slot: Slot, membership: Membership) -> Option<Moved> {
        let members = &mut self.rooms[membership.room].members;
        let removed = members.swap_remove(membership.position.index());
        assert_eq!(removed, slot, "a member knows its position");
        let moved = members.get(membership.position.index()).copied();
        // A long list that shrank gives memory back, with space to grow again.
        if members.len() < members.capacity() / 4 && members.capacity() > 64 {
            members.shrink_to(members.len() * 2);
        }
        self.mark(membership.room);
        moved.map(|slot| Moved { slot, membership })
    }

    /// Removes a room without members and waiting connections; returns its name.
    pub(crate) fn remove_if_empty(&mut self, room: RoomId) -> Option<Arc<str>> {
        let Room { members, waiting, .. } = &self.rooms[room];
        if !members.is_empty() || !waiting.is_empty() {
            return None;
        }
        let room = self.rooms.remove(room);
        self.names.remove(&room.name);
        Some(room.name)
    }

    fn mark(&mut self, room: RoomId) {
        let room = &mut self.rooms[room];
        if !room.is_dirty {
            room.is_dirty = true;
            self.dirty.push(Arc::clone(&room.name));
        }
    }

    /// The rooms whose member count changed since the last call, with the present count.
    pub(crate) fn take_changed(&mut self) -> Vec<(Arc<str>, u32)> {
        let mut changed = Vec::with_capacity(self.dirty.len());
        for name in std::mem::take(&mut self.dirty) {
            if let Some(&room) = self.names.get(&name) {
                let room = &mut self.rooms[room];
                // A room that has not joined yet has no count at its home. The first member that enters
                // after the answer marks the room again.
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

impl std::ops::Index<RoomId> for Rooms {
    type Output = Room;

    fn index(&self, room: RoomId) -> &Room {
        &self.rooms[room]
    }
}

impl std::ops::IndexMut<RoomId> for Rooms {
    fn index_mut(&mut self, room: RoomId) -> &mut Room {
        &mut self.rooms[room]
    }
}
