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
    /// The handle by which members of protocol 2 name the room. It is this shard's own, because a connection stays on
    /// its shard.
    pub(crate) fn handle(self) -> RoomHandle {
        RoomHandle(self.0)
    }

    /// The room that a client names. The client may send any number.
    pub(crate) fn of_handle(RoomHandle(handle): RoomHandle) -> Self {
        Self(handle)
    }
}

/// The index of a member in its room's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct MemberIndex(u32);

impl MemberIndex {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// The position in a room's history up to which its members were offered the pushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watermark {
    pub(crate) position: HistoryPosition,
    /// See [`crate::message::Push::number`].
    pub(crate) number: u64,
}

/// A connection's room and its index in the list of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Membership {
    room: RoomId,
    index: MemberIndex,
}

impl Membership {
    pub(crate) const NONE: Self = Self { room: RoomId::NONE, index: MemberIndex(u32::MAX) };

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
    /// Whether connections become members at once, because everything that the home tells about the room is known.
    pub(crate) fn is_open(&self) -> bool {
        self.is_joined && !self.awaits_position
    }

    /// The position up to which a member has the pushes to this room, if that is known.
    pub(crate) fn watermark_of(&self, member: Membership) -> Option<HistoryPosition> {
        let next = self.under_way.filter(|_| member.index.0 < self.offered);
        let watermark = self.watermark?.position;
        // A push that has no place in the history has offset 0.
        Some(HistoryPosition { offset: next.unwrap_or(0).max(watermark.offset), ..watermark })
    }
}

/// A connection that waits for the room's home to answer.
pub(crate) struct Waiting {
    pub(crate) conn: LocalConnId,
    /// `None`: the connection enters by order of the server, and its input is not held.
    pub(crate) reply: Option<AwaitedReply>,
}

pub(crate) struct Room {
    pub(crate) name: Arc<str>,
    /// The slots of the members. Each connection knows its index.
    pub(crate) members: Vec<Slot>,
    /// Connections that become members when the home has answered.
    pub(crate) waiting: Vec<Waiting>,
    /// The number of connections that become members when the home has answered with their part of the room's history.
    pub(crate) recovering: u32,
    pub(crate) is_joined: bool,
    /// The home will tell the position of the room. Until then entering connections wait.
    pub(crate) awaits_position: bool,
    /// The progress of the push under way: the number of members that it was offered to, counted from the first.
    pub(crate) offered: u32,
    /// Set while a push under way was offered to only some members: its offset, or the last offset of several.
    pub(crate) under_way: Option<u64>,
    /// The latest push that all members were offered, if the room keeps a history. The home tells the position once,
    /// and each push moves it. If a rule came into force later, the epoch is 0, which no history has, until the home
    /// has told the position.
    pub(crate) watermark: Option<Watermark>,
    /// The number of members on other shards and hosts, as last reported by the home.
    pub(crate) elsewhere: u32,
    /// In the list of rooms whose present count the home does not know.
    pub(crate) is_dirty: bool,
    /// In the list of rooms whose waiting connections become members.
    pub(crate) is_letting_in: bool,
}

/// A member that took the index of one that left.
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

    /// The generation of a handle. It differs for successive rooms with the same handle.
    pub(crate) fn generation(&self, room: RoomId) -> Generation {
        self.rooms.generation(room)
    }

    /// The name of the room with that handle, if there is one.
    pub(crate) fn name_of(&self, room: RoomId) -> Option<&str> {
        self.rooms.is_taken(room).then(|| &*self.rooms[room].name)
    }

    /// Finds or creates the room called `name`. `true`: it is new, and its home must be asked to join.
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
            watermark: None,
            elsewhere: 0,
            is_dirty: false,
            is_letting_in: false,
        });
        self.names.insert(name, room);
        (room, true)
    }

    /// Adds the connection in `slot`, which must not be in the room, to the members. The push under way is not offered
    /// to it: it may have got that push before it left and came back. The caller stores the results with the connection
    /// and with the member that moved.
    #[must_use]
    pub(crate) fn enter(&mut self, room: RoomId, slot: Slot) -> (Membership, Option<Moved>) {
        let Room { members, offered, under_way, .. } = &mut self.rooms[room];
        let end = u32::try_from(members.len()).expect("members are slots, u32");
        reserve_one(members);
        members.push(slot);
        let membership = |index| Membership { room, index: MemberIndex(index) };
        let (mut index, mut moved) = (end, None);
        if under_way.is_some() {
            index = *offered;
            *offered += 1;
            if index < end {
                members.swap(index as usize, end as usize);
                let slot = members[end as usize];
                moved = Some(Moved { slot, membership: membership(end) });
            }
        }
        let membership = membership(index);
        self.mark(room);
        (membership, moved)
    }

    /// Removes the connection in `slot` from its room in O(1). The caller stores the results with the members
    /// that moved, and then calls [`Rooms::remove_if_empty`].
    #[must_use]
    pub(crate) fn leave(&mut self, slot: Slot, membership: Membership) -> [Option<Moved>; 2] {
        let room = &mut self.rooms[membership.room];
        let (members, mut gap) = (&mut room.members, membership.index.index());
        assert_eq!(members[gap], slot, "a member knows its position");
        let mut moved = [None, None];
        if gap < room.offered as usize {
            // The last member that was offered the push under way takes the place. So no member is offered the push
            // again, and none is skipped.
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
            let index = MemberIndex(gap as u32);
            moved[1] = Some(Moved { slot, membership: Membership { index, ..membership } });
        }
        // A list that has shrunk a lot gives memory back, but keeps space to grow.
        if members.len() < members.capacity() / 4 && members.capacity() > 64 {
            members.shrink_to(members.len() * 2);
        }
        self.mark(membership.room);
        moved
    }

    /// Removes a room without members and waiting connections, and returns its name.
    pub(crate) fn remove_if_empty(&mut self, room: RoomId) -> Option<Arc<str>> {
        let Room { members, waiting, recovering, is_joined, .. } = &self.rooms[room];
        // A room that has not joined stays, so that the home's answer to its join request finds it.
        if !members.is_empty() || !waiting.is_empty() || *recovering > 0 || !is_joined {
            return None;
        }
        let room = self.rooms.remove(room);
        self.names.remove(&*room.name);
        Some(room.name)
    }

    /// Puts the room on the list of rooms whose present count the home does not know.
    pub(crate) fn mark(&mut self, room: RoomId) {
        let room = &mut self.rooms[room];
        if !room.is_dirty {
            room.is_dirty = true;
            self.dirty.push_back(Arc::clone(&room.name));
        }
    }

    /// Takes the room whose member count changed first off the list. `Some(None)`: its home need not know the count.
    pub(crate) fn pop_changed(&mut self) -> Option<Option<(Arc<str>, u32)>> {
        let name = self.dirty.pop_front()?;
        let Some(&room) = self.names.get(&*name) else { return Some(None) };
        let room = &mut self.rooms[room];
        // A room that has not joined yet has no count at its home. A room with connections that are about to enter has
        // no final count; the last of them marks the room again.
        let is_settled = room.is_joined && room.waiting.is_empty() && room.recovering == 0;
        let has_changed = std::mem::take(&mut room.is_dirty) && is_settled;
        Some(has_changed.then_some((name, room.members.len() as u32)))
    }

    /// The number of rooms on the list of changed counts.
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
        /// Members leave and enter while a push is offered to a few members at a time.
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
                    prop_assert_eq!(rooms[room].members[at.index.index()], *slot);
                }
            }
            let rest = &rooms[room].members[rooms[room].offered as usize..];
            offered.extend_from_slice(rest);
            let times = |slot| offered.iter().filter(|other| **other == slot).count();
            for slot in stayed {
                prop_assert_eq!(times(slot), 1);
            }
            // Nor is it offered again to a member that left and came back.
            prop_assert!(offered.iter().all(|slot| times(*slot) == 1));
        }
    }
}
