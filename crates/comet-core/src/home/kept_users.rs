//! Sessions of users that are kept: pushes to such a user go to the homes of these keys, so that all pushes to a key have one order,
//! whether it has a connection or is parked.

use std::collections::{BTreeMap, HashMap, HashSet};

use ahash::RandomState;

use crate::ids::ConnId;

pub(crate) struct KeptUsers {
    /// The keys of a user, each with the connection that registered with it last.
    keys: HashMap<i64, BTreeMap<Box<str>, ConnId>, RandomState>,
    /// Connections that are reached by their keys.
    conns: HashSet<ConnId, RandomState>,
}

impl KeptUsers {
    pub(super) fn new(seed: u64) -> Self {
        let state = |at| RandomState::with_seeds(seed, at, 41, 42);
        Self { keys: HashMap::with_hasher(state(40)), conns: HashSet::with_hasher(state(43)) }
    }

    /// `conn` registers with `key`, and its session is kept or not.
    pub(crate) fn register(&mut self, user: i64, key: &str, conn: ConnId, is_kept: bool) {
        if is_kept {
            self.keys.entry(user).or_default().insert(key.into(), conn);
            self.conns.insert(conn);
        } else if !self.keys.is_empty() {
            self.remove(user, key);
        }
    }

    /// The session of `conn` has ended; that of its key goes on.
    pub(crate) fn end(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
    }

    /// The session of `key` is that of `to` and no more that of `from`, or has ended. Without effect if another connection has
    /// registered with the key.
    pub(crate) fn change(&mut self, user: i64, key: &str, from: ConnId, to: Option<ConnId>) {
        let Some(known) = self.keys.get_mut(&user).and_then(|keys| keys.get_mut(key)) else {
            return;
        };
        if *known != from {
            return;
        }
        match to {
            Some(to) => *known = to,
            None => self.remove(user, key),
        }
    }

    fn remove(&mut self, user: i64, key: &str) {
        if let Some(keys) = self.keys.get_mut(&user) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&user);
            }
        }
    }

    /// Keys of `user` that are reached at their homes.
    pub(crate) fn keys_of(&self, user: i64) -> impl Iterator<Item = &str> {
        self.keys.get(&user).into_iter().flatten().map(|(key, _)| &**key)
    }

    /// Whether `conn` is reached by its key.
    pub(crate) fn is_kept(&self, conn: ConnId) -> bool {
        self.conns.contains(&conn)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, ShardId, Slot};

    fn conn(slot: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot: Slot(slot), generation: Generation(0) }
    }

    fn keys(users: &KeptUsers, user: i64) -> Vec<&str> {
        users.keys_of(user).collect()
    }

    #[test]
    fn the_late_end_of_a_session_changes_nothing_for_the_next_connection_of_its_key() {
        let mut users = KeptUsers::new(7);
        users.register(1, "k", conn(1), true);
        users.register(1, "k", conn(2), true);
        users.change(1, "k", conn(1), None);
        assert_eq!(keys(&users, 1), ["k"]);
        users.change(1, "k", conn(2), None);
        assert!(users.is_empty());
    }

    #[test]
    fn a_session_stays_with_the_younger_connection_whoever_registers_last() {
        let mut users = KeptUsers::new(7);
        users.register(1, "k", conn(2), true);
        users.register(1, "k", conn(1), true);
        users.change(1, "k", conn(1), Some(conn(2)));
        users.change(1, "k", conn(1), None);
        assert_eq!(keys(&users, 1), ["k"]);
        users.change(1, "k", conn(2), None);
        assert!(users.is_empty());
    }

    #[test]
    fn a_connection_whose_session_is_not_kept_takes_the_key_back() {
        let mut users = KeptUsers::new(7);
        users.register(1, "k", conn(1), true);
        users.register(1, "k", conn(2), false);
        assert!(users.is_empty());
        assert!(users.is_kept(conn(1)) && !users.is_kept(conn(2)));
        users.end(conn(1));
        assert!(!users.is_kept(conn(1)));
    }
}
