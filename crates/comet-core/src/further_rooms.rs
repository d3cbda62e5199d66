//! The rooms of connections in addition to [`Conn::room`](crate::conn::Conn::room). A connection without any has no
//! entry here. A pair of a connection and a room takes 8 bytes here, and 4 in the room's list of members. Both lists
//! grow by a quarter.

use crate::bucket::Buckets;
use crate::growth::reserve_one;
use crate::ids::Slot;
use crate::room::{Membership, RoomId};

pub(crate) struct FurtherRooms {
    /// Sorted by room.
    by_conn: Buckets<Slot, Vec<Membership>>,
    pairs: usize,
}

impl FurtherRooms {
    pub(crate) fn new(buckets: usize, seed: u64) -> Self {
        Self { by_conn: Buckets::new(buckets, seed), pairs: 0 }
    }

    /// The number of pairs of a connection and a room.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }

    /// The rooms of a connection, sorted.
    pub(crate) fn of(&self, slot: Slot) -> &[Membership] {
        self.by_conn.get(&slot).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn contains(&self, slot: Slot, room: RoomId) -> bool {
        find(self.of(slot), room).is_ok()
    }

    /// The membership of the connection in a room.
    pub(crate) fn find(&self, slot: Slot, room: RoomId) -> Option<Membership> {
        let rooms = self.of(slot);
        find(rooms, room).ok().map(|at| rooms[at])
    }

    /// Adds a room that the connection is not in.
    pub(crate) fn insert(&mut self, slot: Slot, membership: Membership) {
        if self.by_conn.get(&slot).is_none() {
            self.by_conn.insert(slot, Vec::new());
        }
        let rooms = self.by_conn.get_mut(&slot).expect("inserted above");
        let at = find(rooms, membership.id()).expect_err("it is not in the room");
        reserve_one(rooms);
        rooms.insert(at, membership);
        self.pairs += 1;
    }

    /// The connection has moved within the list of members of a room.
    pub(crate) fn update(&mut self, slot: Slot, membership: Membership) {
        let rooms = self.by_conn.get_mut(&slot).expect("it is in the room");
        let at = find(rooms, membership.id()).expect("it is in the room");
        rooms[at] = membership;
    }

    /// Removes a room, if the connection is in it.
    pub(crate) fn remove(&mut self, slot: Slot, room: RoomId) -> Option<Membership> {
        let rooms = self.by_conn.get_mut(&slot)?;
        let membership = rooms.remove(find(rooms, room).ok()?);
        self.pairs -= 1;
        if rooms.is_empty() {
            self.by_conn.remove(&slot);
        } else if rooms.len() < rooms.capacity() / 4 {
            rooms.shrink_to(rooms.len() * 2);
        }
        Some(membership)
    }

    /// Removes one of the rooms of a connection, if it is in any.
    pub(crate) fn pop(&mut self, slot: Slot) -> Option<Membership> {
        let last = self.of(slot).last()?.id();
        self.remove(slot, last)
    }
}

fn find(rooms: &[Membership], room: RoomId) -> Result<usize, usize> {
    rooms.binary_search_by_key(&room.handle(), |membership| membership.id().handle())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Rooms;

    /// A pair may take 20 bytes at 100 rooms a connection. The rooms themselves take memory in addition to these lists.
    #[test]
    fn a_pair_takes_15_bytes_of_its_lists() {
        for each in [65, 100, 128] {
            let (mut rooms, mut further) = (Rooms::new(16, 7), FurtherRooms::new(16, 7));
            let ids: Vec<RoomId> =
                (0..each).map(|room| rooms.find_or_create(&room.to_string()).0).collect();
            for slot in (0..each).map(Slot) {
                for &id in &ids {
                    further.insert(slot, rooms.enter(id, slot).0);
                }
            }
            let memberships: usize = further.by_conn.iter().map(|(_, list)| list.capacity()).sum();
            let members: usize = ids.iter().map(|&id| rooms[id].members.capacity()).sum();
            let bytes = memberships * size_of::<Membership>() + members * size_of::<Slot>();
            let pairs = further.pairs();
            assert!(bytes <= 15 * pairs, "{bytes} bytes for {pairs} pairs, {each} rooms each");
        }
    }
}
