//! The rooms with members on this shard. Each has a dense list of members, so that a push is a linear walk.

mod take_over;

use std::collections::VecDeque;
use std::sync::Arc;

use comet_proto::{Position as HistoryPosition, RoomHandle};

use crate::bucket::Buckets;
use crate::growth::reserve_one;
use crate::ids::{Generation, LocalConnId, Slot};
use crate::index::{Index, index};
use crate::slab::Slab;
use crate::state::AwaitedReply;

/// A room of this shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub(crate) struct RoomId(u32);

index!(RoomId);

impl RoomId {
    /// Names the room to members of protocol 2. It is the shard's own: a connection stays on its shard.
    pub(crate) fn handle(self) -> RoomHandle {
        RoomHandle(self.0)
    }

    /// The room that a client means, which may be any number.
    pub(crate) fn of_handle(RoomHandle(handle): RoomHandle) -> Self {
        Self(handle)
    }
}

/// A place in a room's list of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct Position(u32);

impl Position {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a room's history stands, as far as its members were offered the pushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reached {
    pub(crate) position: HistoryPosition,
    /// See [`crate::message::Push::number`].
    pub(crate) number: u64,
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

    /// The room of a membership that is not [`Membership::NONE`].
    pub(crate) fn id(self) -> RoomId {
        debug_assert!(self.room != RoomId::NONE);
        self.room
    }
}

impl Room {
    /// Whether connections become members at once: all that the home has to tell of the room is known.
    pub(crate) fn is_open(&self) -> bool {
        self.is_joined && !self.awaits_position
    }

    /// Up to where a member has the pushes to this room, if that is known.
    pub(crate) fn reached_by(&self, member: Membership) -> Option<HistoryPosition> {
        let next = self.under_way.filter(|_| member.position.0 < self.offered);
        let reached = self.reached?.position;
        // A push that keeps no place in the history has offset 0.
        Some(HistoryPosition { offset: next.unwrap_or(0).max(reached.offset), ..reached })
    }
}

/// A connection that waits for the room's home to answer.
pub(crate) struct Waiting {
    pub(crate) conn: LocalConnId,
    /// `None`: it is to enter by order of the server, and its input is not held.
    pub(crate) reply: Option<AwaitedReply>,
}

pub(crate) struct Room {
    pub(crate) name: Arc<str>,
    /// Slots. A connection knows its position.
    pub(crate) members: Vec<Slot>,
    /// Connections that become members once the home knows of this shard.
    pub(crate) waiting: Vec<Waiting>,
    /// Connections that become members once the home has answered with what the room's history has for them.
    pub(crate) recovering: u32,
    pub(crate) is_joined: bool,
    /// The home will tell the position of the room. Connections that enter meanwhile wait for that.
    pub(crate) awaits_position: bool,
    /// How far the push under way is: it was offered to so many members, from the first on.
    pub(crate) offered: u32,
    /// A push is under way, and was offered to some members: its offset, or that of the last one of several.
    pub(crate) under_way: Option<u64>,
    /// Of the latest push that all members were offered, if the room keeps a history. The home tells it once, and each push moves
    /// it. Where a rule came into force later, the epoch is 0, which is no history's, until the home has told the position.
    pub(crate) reached: Option<Reached>,
    /// Members on other shards and hosts, as the home last reported.
    pub(crate) elsewhere: u32,
    /// In the list of rooms whose home does not know the present count.
    pub(crate) is_dirty: bool,
    /// In the list of rooms whose waiting connections are let in.
    pub(crate) is_letting_in: bool,
}

/// A member that took the position of one that left.
pub(crate) struct Moved {
    pub(crate) slot: Slot,
    pub(crate) membership: Membership,
}

pub(crate) struct Rooms {
    rooms: Slab<RoomId, Room>,
    names: Buckets<Arc<str>, RoomId>,
    dirty: VecDeque<Arc<str>>,
}

impl Rooms {
    pub(crate) fn new(buckets: usize, seed: u64) -> Self {
        Self { rooms: Slab::new(), names: Buckets::new(buckets, seed), dirty: VecDeque::new() }
    }

    pub(crate) fn find(&self, name: &str) -> Option<RoomId> {
        self.names.get(name).copied()
    }

    /// Tells rooms apart that have one handle, one after the other.
    pub(crate) fn generation(&self, room: RoomId) -> Generation {
        self.rooms.generation(room)
    }

    /// The name of a room, if there is one with that handle.
    pub(crate) fn name_of(&self, room: RoomId) -> Option<&str> {
        self.rooms.is_taken(room).then(|| &*self.rooms[room].name)
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
            recovering: 0,
            is_joined: false,
            awaits_position: false,
            offered: 0,
            under_way: None,
            reached: None,
            elsewhere: 0,
            is_dirty: false,
            is_letting_in: false,
        });
        self.names.insert(name, room);
        (room, true)
    }

    /// Adds the connection in `slot`, which must not be in the room, to the members. A push that is under way is not
    /// offered to it: it may have got that push before it left and came back. The caller stores the results with
    /// the connection and with the member that moved.
    #[must_use]
    pub(crate) fn enter(&mut self, room: RoomId, slot: Slot) -> (Membership, Option<Moved>) {
        let Room { members, offered, under_way, .. } = &mut self.rooms[room];
        let end = u32::try_from(members.len()).expect("members are slots, u32");
        reserve_one(members);
        members.push(slot);
        let place = |position| Membership { room, position: Position(position) };
        let (mut position, mut moved) = (end, None);
        if under_way.is_some() {
            position = *offered;
            *offered += 1;
            if position < end {
                members.swap(position as usize, end as usize);
                let slot = members[end as usize];
                moved = Some(Moved { slot, membership: place(end) });
            }
        }
        let membership = place(position);
        self.mark(room);
        (membership, moved)
    }

    /// Removes the connection in `slot` from its room in O(1). The caller stores the results with the members
    /// that moved, and then calls [`Rooms::remove_if_empty`].
    #[must_use]
    pub(crate) fn leave(&mut self, slot: Slot, membership: Membership) -> [Option<Moved>; 2] {
        let room = &mut self.rooms[membership.room];
        let (members, mut gap) = (&mut room.members, membership.position.index());
        assert_eq!(members[gap], slot, "a member knows its position");
        let mut moved = [None, None];
        if gap < room.offered as usize {
            // The last of those that the push under way was offered to takes the place, so that none of them
            // is offered it again and none of the others is passed over.
            room.offered -= 1;
            let last = room.offered as usize;
            if gap < last {
                members.swap(gap, last);
                moved[0] = Some(Moved { slot: members[gap], membership });
                gap = last;
            }
        }
        members.swap_remove(gap);
        if let Some(&slot) = members.get(gap) {
            let position = Position(gap as u32);
            moved[1] = Some(Moved { slot, membership: Membership { position, ..membership } });
        }
        // A long list that shrank gives memory back, with space to grow again.
        if members.len() < members.capacity() / 4 && members.capacity() > 64 {
            members.shrink_to(members.len() * 2);
        }
        self.mark(membership.room);
        moved
    }

    /// Removes a room without members and waiting connections; returns its name.
    pub(crate) fn remove_if_empty(&mut self, room: RoomId) -> Option<Arc<str>> {
        let Room { members, waiting, recovering, is_joined, .. } = &self.rooms[room];
        // The home's answer to its join request finds it, in any case.
        if !members.is_empty() || !waiting.is_empty() || *recovering > 0 || !is_joined {
            return None;
        }
        let room = self.rooms.remove(room);
        self.names.remove(&*room.name);
        Some(room.name)
    }

    /// Puts the room on the list of those whose home does not know the present count.
    pub(crate) fn mark(&mut self, room: RoomId) {
        let room = &mut self.rooms[room];
        if !room.is_dirty {
            room.is_dirty = true;
            self.dirty.push_back(Arc::clone(&room.name));
        }
    }

    /// Takes the room off the list whose member count changed first. `Some(None)`: its home need not know.
    pub(crate) fn pop_changed(&mut self) -> Option<Option<(Arc<str>, u32)>> {
        let name = self.dirty.pop_front()?;
        let Some(&room) = self.names.get(&*name) else { return Some(None) };
        let room = &mut self.rooms[room];
        // A room that has not joined yet has no count at its home, and one whose connections are about to
        // enter has no final one. The last of these marks the room again.
        let is_settled = room.is_joined && room.waiting.is_empty() && room.recovering == 0;
        let has_changed = std::mem::take(&mut room.is_dirty) && is_settled;
        Some(has_changed.then_some((name, room.members.len() as u32)))
    }

    /// Rooms whose member count changed and is not taken yet.
    pub(crate) fn changed(&self) -> usize {
        self.dirty.len()
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Members leave and enter while a push goes on by a few members at a time.
        #[test]
        fn a_push_under_way_is_offered_once_to_each_member_that_stays(
            members in 1..40_u32,
            steps in prop::collection::vec((0..4_u32, 0..60_u32), 1..60),
        ) {
            let mut rooms = Rooms::new(1, 7);
            let (room, _) = rooms.find_or_create("r");
            let mut places: BTreeMap<Slot, Membership> = BTreeMap::new();
            for slot in (0..members).map(Slot) {
                places.insert(slot, rooms.enter(room, slot).0);
            }
            rooms[room].under_way = Some(0);
            let mut stayed: BTreeSet<Slot> = places.keys().copied().collect();
            let mut offered = Vec::new();
            for (step, number) in steps {
                let slot = Slot(number);
                match (step, places.remove(&slot)) {
                    (0, at) => {
                        places.extend(at.map(|at| (slot, at)));
                        let Room { members, offered: from, .. } = &mut rooms[room];
                        let next = &members[*from as usize..];
                        let next = &next[..next.len().min(number as usize % 5)];
                        offered.extend_from_slice(next);
                        *from += next.len() as u32;
                    }
                    (_, Some(at)) => {
                        stayed.remove(&slot);
                        for Moved { slot, membership } in
                            rooms.leave(slot, at).into_iter().flatten()
                        {
                            places.insert(slot, membership);
                        }
                    }
                    (_, None) => {
                        let (at, moved) = rooms.enter(room, slot);
                        places.insert(slot, at);
                        places.extend(moved.map(|moved| (moved.slot, moved.membership)));
                        // It was not a member all along.
                        stayed.remove(&slot);
                    }
                }
                for (slot, at) in &places {
                    prop_assert_eq!(rooms[room].members[at.position.index()], *slot);
                }
            }
            let rest = &rooms[room].members[rooms[room].offered as usize..];
            offered.extend_from_slice(rest);
            let times = |slot| offered.iter().filter(|other| **other == slot).count();
            for slot in stayed {
                prop_assert_eq!(times(slot), 1);
            }
            // Nor is it offered again to one that left and came back.
            prop_assert!(offered.iter().all(|slot| times(*slot) == 1));
        }
    }
}
