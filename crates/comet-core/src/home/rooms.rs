//! Which shards have members of a room, and how many members there are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use crate::bucket::Buckets;
use crate::budget::{self, Budget};
use crate::ids::{CallId, ShardId};

pub(crate) struct HomeRooms {
    rooms: Buckets<Arc<str>, HomeRoom>,
    /// Rooms whose shards do not know the present counts.
    dirty: VecDeque<Arc<str>>,
    /// The numbers of members on other hosts, of rooms that have some there.
    remote: Buckets<Arc<str>, Remote>,
    /// How many times these were replaced.
    round: u32,
    /// Scans of many rooms, done one after the other.
    scans: VecDeque<RoomScan>,
}

/// Rooms with their numbers of members.
type RoomList = Vec<(Arc<str>, u32)>;

struct Remote {
    members: u32,
    round: u32,
}

/// Work on many rooms that continues in slices.
enum RoomScan {
    /// Takes over the numbers of members on other hosts.
    Take(vec::IntoIter<(Arc<str>, u32)>),
    /// Removes the numbers of rooms that were not named, from this table on.
    Sweep(usize),
    /// Lists the rooms with members on this host, from this table on.
    List(CallId, usize, RoomList),
    /// Lists those of the given rooms that have members on this host, from this index on.
    Count(CallId, usize, Arc<[Arc<str>]>, RoomList),
}

/// A room seen from its home.
struct HomeRoom {
    /// The shards with members, and the number that each last reported.
    shards: Vec<(ShardId, u32)>,
    /// The number of members on other hosts.
    remote: u32,
    /// In the list of dirty rooms.
    is_dirty: bool,
}

impl HomeRooms {
    pub(super) fn new(buckets: usize, seed: u64) -> Self {
        Self {
            rooms: Buckets::new(buckets, seed ^ 3),
            dirty: VecDeque::new(),
            remote: Buckets::new(buckets, seed ^ 7),
            round: 0,
            scans: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rooms.len()
    }

    /// The rooms with members on this host, and their numbers of members here.
    pub(crate) fn counts(&self) -> Vec<(Arc<str>, u32)> {
        self.rooms.iter().map(|(room, known)| (Arc::clone(room), known.members())).collect()
    }

    /// Whether the room has members on this host.
    pub(crate) fn has_members(&self, room: &str) -> bool {
        self.rooms.get(room).is_some()
    }

    /// The number of members of `room` on this host, as its shards last reported.
    pub(crate) fn members(&self, room: &str) -> u32 {
        self.rooms.get(room).map_or(0, HomeRoom::members)
    }

    /// The shards that a push to `room` must reach, and the number of members that each last reported.
    pub(crate) fn shards_of(&self, room: &str) -> &[(ShardId, u32)] {
        self.rooms.get(room).map_or(&[], |known| &known.shards)
    }

    /// `shard` has its first member in `room`. Returns the number of members elsewhere.
    pub(crate) fn join(&mut self, room: &Arc<str>, shard: ShardId) -> u32 {
        if self.rooms.get(room).is_none() {
            let remote = self.remote.get(room).map_or(0, |remote| remote.members);
            let known = HomeRoom { shards: Vec::new(), remote, is_dirty: false };
            self.rooms.insert(Arc::clone(room), known);
        }
        self.set_members(room, shard, 1);
        self.rooms.get(room).map_or(0, |known| known.elsewhere(shard))
    }

    /// `shard` has `members` members in `room`. With none it is removed from the room's shards.
    pub(crate) fn set_members(&mut self, room: &Arc<str>, shard: ShardId, members: u32) {
        let Some(known) = self.rooms.get_mut(room) else {
            return;
        };
        let at = known.shards.iter().position(|&(other, _)| other == shard);
        match (at, members) {
            (None, 0) => {}
            (Some(at), 0) => {
                known.shards.swap_remove(at);
            }
            (Some(at), _) => known.shards[at].1 = members,
            (None, _) => known.shards.push((shard, members)),
        }
        if known.shards.is_empty() {
            self.rooms.remove(room);
        } else {
            known.mark(room, &mut self.dirty);
        }
    }

    /// Begins to replace the numbers of members on other hosts. A room that is not named has none there.
    pub(crate) fn set_remote_counts(&mut self, rooms: Vec<(Arc<str>, u32)>) {
        self.scans.push_back(RoomScan::Take(rooms.into_iter()));
        self.scans.push_back(RoomScan::Sweep(0));
    }

    /// Begins to list the rooms for `call`.
    pub(crate) fn list(&mut self, call: CallId) {
        self.scans.push_back(RoomScan::List(call, 0, Vec::with_capacity(self.len())));
    }

    /// Begins to list those of `rooms` that have members. They may be few, so this does not wait for scans of all
    /// rooms.
    pub(crate) fn count(&mut self, call: CallId, rooms: Arc<[Arc<str>]>) {
        self.scans.push_front(RoomScan::Count(call, 0, rooms, Vec::new()));
    }

    /// Whether [`HomeRooms::go_on`] has something to do.
    pub(crate) fn has_scans(&self) -> bool {
        !self.scans.is_empty()
    }

    /// Continues the scans, until the budget is spent or a list is complete.
    pub(crate) fn go_on(&mut self, budget: &mut Budget) -> Option<(CallId, RoomList)> {
        while budget.is_left()
            && let Some(scan) = self.scans.pop_front()
        {
            let rest = match scan {
                RoomScan::Take(rooms) => self.take_remote_counts(rooms, budget),
                RoomScan::Sweep(table) => self.sweep_remote_counts(table, budget),
                RoomScan::List(call, table, rooms) if table == self.rooms.tables() => {
                    return Some((call, rooms));
                }
                RoomScan::List(call, table, mut rooms) => {
                    let listed = self.rooms.table(table);
                    budget.spend(1 + listed.len() * budget::ENTRY);
                    rooms.extend(listed.map(|(room, known)| (Arc::clone(room), known.members())));
                    Some(RoomScan::List(call, table + 1, rooms))
                }
                RoomScan::Count(call, at, rooms, counted) if at == rooms.len() => {
                    return Some((call, counted));
                }
                RoomScan::Count(call, at, rooms, mut counted) => {
                    budget.spend(budget::LOOKUP);
                    let known = self.rooms.get(&*rooms[at]);
                    counted.extend(known.map(|known| (Arc::clone(&rooms[at]), known.members())));
                    Some(RoomScan::Count(call, at + 1, rooms, counted))
                }
            };
            if let Some(rest) = rest {
                self.scans.push_front(rest);
            }
        }
        None
    }

    fn take_remote_counts(
        &mut self,
        mut rooms: vec::IntoIter<(Arc<str>, u32)>,
        budget: &mut Budget,
    ) -> Option<RoomScan> {
        while budget.is_left() {
            budget.spend(budget::ENTRY);
            let (room, members) = rooms.next()?;
            self.update(&room, members);
            // The sweep after this scan keeps the entries of its round.
            self.remote.insert(room, Remote { members, round: self.round.wrapping_add(1) });
        }
        Some(RoomScan::Take(rooms))
    }

    fn sweep_remote_counts(&mut self, table: usize, budget: &mut Budget) -> Option<RoomScan> {
        let round = self.round.wrapping_add(1);
        if table == self.remote.tables() {
            self.round = round;
            return None;
        }
        budget.spend(1 + self.remote.table(table).len());
        let mut ended = Vec::new();
        self.remote.retain_table(table, |room, remote| {
            let is_named = remote.round == round;
            if !is_named {
                ended.push(Arc::clone(room));
            }
            is_named
        });
        budget.spend(ended.len() * budget::ENTRY);
        for room in ended {
            self.update(&room, 0);
        }
        Some(RoomScan::Sweep(table + 1))
    }

    /// `room` has `members` on other hosts.
    fn update(&mut self, room: &Arc<str>, members: u32) {
        if let Some(known) = self.rooms.get_mut(room)
            && std::mem::replace(&mut known.remote, members) != members
        {
            known.mark(room, &mut self.dirty);
        }
    }

    /// Rooms with members on this host, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rooms.iter().map(|(room, _)| room)
    }

    /// The numbers of members on other hosts, of rooms that have some there.
    pub(crate) fn remote_counts(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.remote.iter().map(|(room, &Remote { members, .. })| (room, members))
    }

    /// Takes over a room whose shards know the present counts.
    pub(crate) fn take_over(&mut self, room: Arc<str>, shards: Vec<(ShardId, u32)>, remote: u32) {
        self.rooms.insert(room, HomeRoom { shards, remote, is_dirty: false });
    }

    /// Takes over the number of a room's members on other hosts.
    pub(crate) fn take_over_remote(&mut self, room: Arc<str>, members: u32) {
        self.remote.insert(room, Remote { members, round: self.round });
    }

    /// The number of rooms on the list of changed counts.
    pub(crate) fn changed(&self) -> usize {
        self.dirty.len()
    }

    /// Takes the room whose counts changed first off the list. Calls `tell` for each shard with members in it, with the
    /// number of members elsewhere. Returns the number of these shards.
    pub(crate) fn pop_changed(
        &mut self,
        mut tell: impl FnMut(ShardId, Arc<str>, u32),
    ) -> Option<usize> {
        let room = self.dirty.pop_front()?;
        let Some(known) = self.rooms.get_mut(&room) else { return Some(0) };
        if !std::mem::take(&mut known.is_dirty) {
            return Some(0);
        }
        for &(shard, _) in &known.shards {
            tell(shard, Arc::clone(&room), known.elsewhere(shard));
        }
        Some(known.shards.len())
    }
}

impl HomeRoom {
    /// The number of members on this host.
    fn members(&self) -> u32 {
        self.shards.iter().map(|&(_, members)| members).sum()
    }

    /// The number of members on all other shards and hosts.
    fn elsewhere(&self, shard: ShardId) -> u32 {
        let others = self.shards.iter().filter(|(other, _)| *other != shard);
        let local: u32 = others.map(|&(_, members)| members).sum();
        local.saturating_add(self.remote)
    }

    /// Notes that the counts have changed and the room's shards must be told.
    fn mark(&mut self, room: &Arc<str>, dirty: &mut VecDeque<Arc<str>>) {
        if !self.is_dirty {
            self.is_dirty = true;
            dirty.push_back(Arc::clone(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SLICE_UNITS;

    #[test]
    fn a_shard_learns_how_many_members_are_elsewhere() {
        let mut rooms = HomeRooms::new(4, 7);
        let room: Arc<str> = "r".into();
        assert_eq!(rooms.join(&room, ShardId(0)), 0);
        rooms.set_members(&room, ShardId(0), 5);
        assert_eq!(rooms.join(&room, ShardId(1)), 5);
        let mut changed = Vec::new();
        while rooms.pop_changed(|shard, room, count| changed.push((shard, room, count))).is_some() {
        }
        changed.sort();
        assert_eq!(
            changed,
            [(ShardId(0), Arc::clone(&room), 1), (ShardId(1), Arc::clone(&room), 5)]
        );
        assert_eq!(rooms.changed(), 0);
        rooms.set_members(&room, ShardId(1), 0);
        assert_eq!(rooms.shards_of("r"), [(ShardId(0), 5)]);
        rooms.set_members(&room, ShardId(0), 0);
        assert!(rooms.counts().is_empty());
    }
    /// However many rooms there are, a slice handles only some of them, and the next slice continues.
    #[test]
    fn walks_over_all_rooms_are_spread_over_slices() {
        const ROOMS: u32 = 20_000;
        let name = |number: u32| -> Arc<str> { format!("r{number}").into() };
        let mut rooms = HomeRooms::new(256, 7);
        for number in 0..ROOMS {
            rooms.join(&name(number), ShardId(0));
        }
        let walk = |rooms: &mut HomeRooms, least: u32| {
            let (mut slices, mut listed) = (0, Vec::new());
            while rooms.has_scans() {
                slices += 1;
                listed.extend(rooms.go_on(&mut Budget::slice()));
            }
            assert!(slices >= least, "{slices} slices");
            listed
        };
        let slices = ROOMS * budget::ENTRY as u32 / SLICE_UNITS as u32;
        rooms.set_remote_counts((0..ROOMS).map(|number| (name(number), 5)).collect());
        walk(&mut rooms, slices);
        assert_eq!(rooms.join(&name(ROOMS - 1), ShardId(1)), 6);
        // The first half keep their counts. The other half no longer have members on other hosts.
        rooms.set_remote_counts((0..ROOMS / 2).map(|number| (name(number), 7)).collect());
        rooms.list(CallId(1));
        let listed = walk(&mut rooms, 2 * slices);
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].1.len(), ROOMS as usize);
        assert_eq!(rooms.join(&name(0), ShardId(1)), 8);
        assert_eq!(rooms.join(&name(ROOMS / 2), ShardId(1)), 1);
        assert_eq!(rooms.remote.len(), ROOMS as usize / 2);
    }

    /// A request for a few rooms does not wait for scans of all of them.
    #[test]
    fn rooms_that_are_named_are_counted_alone() {
        let mut rooms = HomeRooms::new(256, 7);
        let name = |number: u32| -> Arc<str> { format!("r{number}").into() };
        (0..20_000).for_each(|number| _ = rooms.join(&name(number), ShardId(0)));
        rooms.set_members(&name(3), ShardId(0), 5);
        rooms.list(CallId(1));
        assert!(rooms.go_on(&mut Budget::slice()).is_none());
        let named: Arc<[Arc<str>]> = [name(3), "nobody".into(), name(7)].into();
        rooms.count(CallId(2), Arc::clone(&named));
        let counted = rooms.go_on(&mut Budget::slice());
        assert_eq!(counted, Some((CallId(2), vec![(name(3), 5), (name(7), 1)])));
        // A long list of named rooms is spread over slices as well.
        rooms.count(CallId(3), vec![name(1); 10_000].into());
        assert!(rooms.go_on(&mut Budget::slice()).is_none());
        assert!(rooms.has_scans());
    }
}
