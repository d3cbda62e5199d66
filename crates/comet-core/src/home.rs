//! What a shard keeps for others: owners of keys, sessions of users, interest in rooms.
//!
//! It is the router of goim's seed, spread over the shards by hash. Answers are facts with a place to
//! send them; the shard around it does the sending.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::{AHashMap, RandomState};
use hashbrown::hash_table::Entry;

use crate::bucket::Buckets;
use crate::ids::{ConnId, ShardId};
use crate::retained::Retained;
use crate::time::Millis;

/// The sessions of one user: a number that counts up, and who holds which.
struct User {
    last: i32,
    sessions: Sessions,
}

/// Nearly every user has one session, so that one has no allocation.
enum Sessions {
    One(i32, ConnId),
    #[allow(clippy::box_collection, reason = "the map's head would be paid by every user with one")]
    Many(Box<BTreeMap<i32, ConnId>>),
}

/// A room seen from its home.
struct HomeRoom {
    /// Shards with members, and how many they said they have.
    shards: Vec<(ShardId, u32)>,
    /// Members on other hosts.
    beyond: u32,
    is_dirty: bool,
}

pub(crate) struct Home {
    keys: Buckets<Box<str>, ConnId>,
    users: Buckets<i64, User>,
    rooms: Buckets<Arc<str>, HomeRoom>,
    dirty: Vec<Arc<str>>,
    /// Members on other hosts, of the rooms that have some there.
    beyond: AHashMap<Arc<str>, u32>,
    /// Numbers of the last sessions of users who left.
    retained_sessions: Retained<i64, i32>,
    /// Keys that logic was told are gone, for as long as it may have let in somebody just before.
    parted: Retained<Box<str>, ()>,
    /// Keys handed out to anonymous users on this shard; see [`crate::home_of_user`].
    anonymous: u64,
    shard: ShardId,
    shards: u16,
}

impl Home {
    pub(crate) fn new(shard: ShardId, shards: u16, buckets: usize, seed: u64) -> Self {
        Self {
            keys: Buckets::new(buckets, seed ^ 1),
            users: Buckets::new(buckets, seed ^ 2),
            rooms: Buckets::new(buckets, seed ^ 3),
            dirty: Vec::new(),
            beyond: AHashMap::with_hasher(RandomState::with_seeds(seed, 7, 8, 9)),
            retained_sessions: Retained::new(buckets, seed ^ 5),
            parted: Retained::new(buckets, seed ^ 6),
            anonymous: 0,
            shard,
            shards,
        }
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn rooms_with_members(&self) -> usize {
        self.rooms.len()
    }

    pub(crate) fn users(&self) -> usize {
        self.users.len()
    }

    /// The next number for a key without a user. Every shard numbers its own: the n-th here is unique among
    /// all shards without asking them.
    pub(crate) fn number_anonymous(&mut self) -> u64 {
        let number = self.anonymous * u64::from(self.shards) + u64::from(self.shard.0) + 1;
        self.anonymous += 1;
        number
    }

    /// Gives `conn` the next number among the sessions of `user`, counting from 1, or on from where a
    /// user who is remembered left. Sessions without a user have no numbers.
    pub(crate) fn begin_session(&mut self, user: i64, conn: ConnId) -> i32 {
        if user == 0 {
            return 0;
        }
        let (_, known) = match self.users.entry(&user) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let last = self.retained_sessions.take(&user).unwrap_or(0).wrapping_add(1);
                free.insert((user, User { last, sessions: Sessions::One(last, conn) }));
                return last;
            }
        };
        known.last = known.last.wrapping_add(1);
        let seq = known.last;
        match &mut known.sessions {
            Sessions::One(first, owner) => {
                known.sessions = Sessions::Many(Box::new([(*first, *owner), (seq, conn)].into()));
            }
            Sessions::Many(sessions) => {
                sessions.insert(seq, conn);
            }
        }
        seq
    }

    /// Ends a session, if `conn` still holds it. `Some`: the user's last one, with the number to go on
    /// from.
    pub(crate) fn end_session(&mut self, user: i64, seq: i32, conn: ConnId) -> Option<i32> {
        let mut entry = self.users.find(&user)?;
        let is_last = match &mut entry.get_mut().1.sessions {
            Sessions::One(held, owner) => (*held, *owner) == (seq, conn),
            Sessions::Many(sessions) => {
                if sessions.get(&seq) == Some(&conn) {
                    sessions.remove(&seq);
                }
                sessions.is_empty()
            }
        };
        is_last.then(|| entry.remove().0.1.last)
    }

    /// `user` left at `now`; the next session counts on from `last` for as long as that is remembered.
    pub(crate) fn remember_user(&mut self, now: Millis, user: i64, last: i32) {
        self.retained_sessions.insert(now, user, last);
    }

    /// Logic is told at `now` that nobody holds `key`.
    pub(crate) fn remember_parted(&mut self, now: Millis, key: &str) {
        self.parted.insert(now, key.into(), ());
    }

    /// Whether logic was told lately that nobody holds `key`.
    pub(crate) fn take_parted(&mut self, key: &str) -> bool {
        self.parted.take(key).is_some()
    }

    /// Forgets users who left so long ago, and keys that did.
    pub(crate) fn forget(&mut self, now: Millis, user_memory_ms: u64, parted_memory_ms: u64) {
        self.retained_sessions.expire(now, user_memory_ms);
        self.parted.expire(now, parted_memory_ms);
    }

    /// When [`Home::forget`] has something to do next.
    pub(crate) fn forgets_at(&self, user_memory_ms: u64, parted_memory_ms: u64) -> Option<Millis> {
        let user = self.retained_sessions.oldest().map(|left| left.after(user_memory_ms));
        let key = self.parted.oldest().map(|left| left.after(parted_memory_ms));
        user.into_iter().chain(key).min()
    }

    /// Every connection of `user`, oldest session first.
    pub(crate) fn sessions(&self, user: i64) -> Vec<(i32, ConnId)> {
        match self.users.get(&user).map(|user| &user.sessions) {
            None => Vec::new(),
            Some(Sessions::One(seq, conn)) => vec![(*seq, *conn)],
            Some(Sessions::Many(sessions)) => {
                sessions.iter().map(|(&seq, &conn)| (seq, conn)).collect()
            }
        }
    }

    /// Makes `conn` the owner of `key`; returns the owner it replaces.
    pub(crate) fn claim(&mut self, key: &str, conn: ConnId) -> Option<ConnId> {
        match self.keys.entry(key) {
            Entry::Occupied(known) => {
                let former = std::mem::replace(&mut known.into_mut().1, conn);
                Some(former).filter(|&former| former != conn)
            }
            Entry::Vacant(free) => {
                free.insert((key.into(), conn));
                None
            }
        }
    }

    /// Frees `key` if `conn` still owns it, and says whether: the late farewell of a replaced owner
    /// changes nothing.
    pub(crate) fn release(&mut self, key: &str, conn: ConnId) -> bool {
        match self.keys.find(key) {
            Some(known) if known.get().1 == conn => {
                known.remove();
                true
            }
            _ => false,
        }
    }

    pub(crate) fn owner(&self, key: &str) -> Option<ConnId> {
        self.keys.get(key).copied()
    }

    pub(crate) fn all_sessions(&self) -> impl Iterator<Item = (i64, i32, ConnId)> {
        self.users.iter().flat_map(|(&user, _)| {
            self.sessions(user).into_iter().map(move |(seq, conn)| (user, seq, conn))
        })
    }

    pub(crate) fn keys_and_owners(&self) -> impl Iterator<Item = (&str, ConnId)> {
        self.keys.iter().map(|(key, &conn)| (&**key, conn))
    }

    /// `shard` has its first member in `room`; returns how many members there are elsewhere.
    pub(crate) fn join_room(&mut self, room: &Arc<str>, shard: ShardId) -> u32 {
        if self.rooms.get(room).is_none() {
            let beyond = self.beyond.get(room).copied().unwrap_or(0);
            let known = HomeRoom { shards: Vec::new(), beyond, is_dirty: false };
            self.rooms.insert(Arc::clone(room), known);
        }
        self.set_members(room, shard, 1);
        self.rooms.get(room).map_or(0, |known| known.elsewhere(shard))
    }

    /// `shard` has `members` in `room` now; none ends its interest.
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

    /// Members on other hosts are `rooms` now, and none in rooms that are not named.
    pub(crate) fn set_beyond(&mut self, rooms: Vec<(Arc<str>, u32)>) {
        let mut news =
            AHashMap::with_capacity_and_hasher(rooms.len(), self.beyond.hasher().clone());
        news.extend(rooms);
        let past = std::mem::replace(&mut self.beyond, news);
        for room in self.beyond.keys().chain(past.keys()) {
            let Some(known) = self.rooms.get_mut(room) else { continue };
            let beyond = self.beyond.get(room).copied().unwrap_or(0);
            if std::mem::replace(&mut known.beyond, beyond) != beyond {
                known.mark(room, &mut self.dirty);
            }
        }
    }

    /// The shards a push to `room` must reach, and how many members each said it has.
    pub(crate) fn shards_of(&self, room: &str) -> &[(ShardId, u32)] {
        self.rooms.get(room).map_or(&[], |known| &known.shards)
    }

    /// Rooms with someone online on this host whose home this is, and how many that are.
    pub(crate) fn rooms(&self) -> Vec<(Arc<str>, u32)> {
        self.rooms
            .iter()
            .map(|(room, known)| {
                (Arc::clone(room), known.shards.iter().map(|&(_, members)| members).sum())
            })
            .collect()
    }

    pub(crate) fn has_changed(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// For rooms whose counts changed since the last call: what each shard with members must know.
    pub(crate) fn take_changed(&mut self) -> Vec<(ShardId, Arc<str>, u32)> {
        let mut news = Vec::new();
        for room in std::mem::take(&mut self.dirty) {
            let Some(known) = self.rooms.get_mut(&room) else {
                continue;
            };
            if std::mem::take(&mut known.is_dirty) {
                for &(shard, _) in &known.shards {
                    news.push((shard, Arc::clone(&room), known.elsewhere(shard)));
                }
            }
        }
        news
    }
}

impl HomeRoom {
    /// Members on all other shards and hosts.
    fn elsewhere(&self, shard: ShardId) -> u32 {
        let others = self.shards.iter().filter(|(other, _)| *other != shard);
        let here: u32 = others.map(|&(_, members)| members).sum();
        here.saturating_add(self.beyond)
    }

    /// Its shards must be told.
    fn mark(&mut self, room: &Arc<str>, dirty: &mut Vec<Arc<str>>) {
        if !self.is_dirty {
            self.is_dirty = true;
            dirty.push(Arc::clone(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ids::{Generation, Slot};

    fn conn(shard: u16, slot: u32) -> ConnId {
        ConnId { shard: ShardId(shard), slot: Slot(slot), generation: Generation(0) }
    }

    #[test]
    fn sessions_count_up_and_only_their_holder_ends_them() {
        let mut home = Home::new(ShardId(0), 2, 4, 7);
        assert_eq!(home.begin_session(42, conn(0, 1)), 1);
        assert_eq!(home.begin_session(42, conn(1, 1)), 2);
        assert_eq!(home.begin_session(42, conn(0, 2)), 3);
        home.end_session(42, 2, conn(0, 9));
        assert_eq!(home.sessions(42).len(), 3);
        home.end_session(42, 2, conn(1, 1));
        assert_eq!(home.sessions(42), [(1, conn(0, 1)), (3, conn(0, 2))]);
        home.end_session(42, 1, conn(0, 1));
        home.end_session(42, 3, conn(0, 2));
        assert_eq!(home.users(), 0);
    }

    #[test]
    fn anonymous_keys_are_unique_across_shards() {
        let mut seen = std::collections::BTreeSet::new();
        for shard in 0..3 {
            let mut home = Home::new(ShardId(shard), 3, 4, 7);
            for slot in 0..10 {
                assert_eq!(home.begin_session(0, conn(shard, slot)), 0);
                let number = home.number_anonymous();
                assert!(number > 0 && seen.insert(number));
            }
            assert_eq!(home.users(), 0);
        }
    }

    #[test]
    fn the_late_farewell_of_a_replaced_owner_changes_nothing() {
        let mut home = Home::new(ShardId(0), 2, 4, 7);
        assert_eq!(home.claim("k", conn(0, 1)), None);
        assert_eq!(home.claim("k", conn(1, 1)), Some(conn(0, 1)));
        home.release("k", conn(0, 1));
        assert_eq!(home.owner("k"), Some(conn(1, 1)));
        home.release("k", conn(1, 1));
        assert_eq!(home.owner("k"), None);
    }

    #[test]
    fn a_shard_hears_how_many_are_elsewhere() {
        let mut home = Home::new(ShardId(0), 2, 4, 7);
        let room: Arc<str> = "r".into();
        assert_eq!(home.join_room(&room, ShardId(0)), 0);
        home.set_members(&room, ShardId(0), 5);
        assert_eq!(home.join_room(&room, ShardId(1)), 5);
        let mut news = home.take_changed();
        news.sort();
        assert_eq!(news, [(ShardId(0), Arc::clone(&room), 1), (ShardId(1), Arc::clone(&room), 5)]);
        assert!(!home.has_changed());
        home.set_members(&room, ShardId(1), 0);
        assert_eq!(home.shards_of("r"), [(ShardId(0), 5)]);
        home.set_members(&room, ShardId(0), 0);
        assert!(home.rooms().is_empty());
    }
}
