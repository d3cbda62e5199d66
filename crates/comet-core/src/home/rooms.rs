//! Interest in rooms: which shards have members, and how many members there are.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::{AHashMap, RandomState};

use crate::bucket::Buckets;
use crate::ids::ShardId;

pub(crate) struct HomeRooms {
    rooms: Buckets<Arc<str>, HomeRoom>,
    /// Rooms whose shards do not know the present counts.
    dirty: VecDeque<Arc<str>>,
    /// Members on other hosts, of the rooms that have some there.
    remote: AHashMap<Arc<str>, u32>,
}

/// A room seen from its home.
struct HomeRoom {
    /// Shards with members, and how many each last reported.
    shards: Vec<(ShardId, u32)>,
    /// Members on other hosts.
    remote: u32,
    /// In the list of dirty rooms.
    is_dirty: bool,
}

impl HomeRooms {
    pub(super) fn new(buckets: usize, seed: u64) -> Self {
        Self {
            rooms: Buckets::new(buckets, seed ^ 3),
            dirty: VecDeque::new(),
            remote: AHashMap::with_hasher(RandomState::with_seeds(seed, 7, 8, 9)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Rooms with members on this host, and how many members they have here.
    pub(crate) fn counts(&self) -> Vec<(Arc<str>, u32)> {
        self.rooms
            .iter()
            .map(|(room, known)| {
                (Arc::clone(room), known.shards.iter().map(|&(_, members)| members).sum())
            })
            .collect()
    }

    /// The shards a push to `room` must reach, and how many members each last reported.
    pub(crate) fn shards_of(&self, room: &str) -> &[(ShardId, u32)] {
        self.rooms.get(room).map_or(&[], |known| &known.shards)
    }

    /// `shard` has its first member in `room`; returns how many members there are elsewhere.
    pub(crate) fn join(&mut self, room: &Arc<str>, shard: ShardId) -> u32 {
        if self.rooms.get(room).is_none() {
            let remote = self.remote.get(room).copied().unwrap_or(0);
            let known = HomeRoom { shards: Vec::new(), remote, is_dirty: false };
            self.rooms.insert(Arc::clone(room), known);
        }
        self.set_members(room, shard, 1);
        self.rooms.get(room).map_or(0, |known| known.elsewhere(shard))
    }

    /// `shard` has `members` in `room` now. Without members it takes no part in the room any more.
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

    /// Replaces the counts of members on other hosts. Rooms that are not named have none there.
    pub(crate) fn set_remote_counts(&mut self, rooms: Vec<(Arc<str>, u32)>) {
        let mut counts =
            AHashMap::with_capacity_and_hasher(rooms.len(), self.remote.hasher().clone());
        counts.extend(rooms);
        let former = std::mem::replace(&mut self.remote, counts);
        for room in self.remote.keys().chain(former.keys()) {
            let Some(known) = self.rooms.get_mut(room) else { continue };
            let remote = self.remote.get(room).copied().unwrap_or(0);
            if std::mem::replace(&mut known.remote, remote) != remote {
                known.mark(room, &mut self.dirty);
            }
        }
    }

    /// Rooms whose counts changed and are not taken yet.
    pub(crate) fn changed(&self) -> usize {
        self.dirty.len()
    }

    /// Takes the room off the list whose counts changed first. Calls `tell` for each shard with members in
    /// it, with how many there are elsewhere. Returns how many shards that are.
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
    /// Members on all other shards and hosts.
    fn elsewhere(&self, shard: ShardId) -> u32 {
        let others = self.shards.iter().filter(|(other, _)| *other != shard);
        let local: u32 = others.map(|&(_, members)| members).sum();
        local.saturating_add(self.remote)
    }

    /// The counts have changed, and the shards of the room must learn them.
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
}
