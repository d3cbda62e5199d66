//! Kept sessions of users. Pushes to such a user go by way of the homes of the keys, so that all pushes to a key have
//! one order, whether the session has a connection or is parked.

use std::collections::{BTreeMap, HashMap, HashSet};

use ahash::RandomState;

use crate::ids::ConnId;
use crate::message::KeptKey;

pub(crate) struct KeptUsers {
    /// The keys of each user, with the connections that have registered with the key and have not given up its session.
    keys: HashMap<i64, BTreeMap<Box<str>, Vec<ConnId>>, RandomState>,
    /// Connections that are reached by way of their keys.
    conns: HashSet<ConnId, RandomState>,
}

impl KeptUsers {
    pub(super) fn new(seed: u64) -> Self {
        let state = |at| RandomState::with_seeds(seed, at, 41, 42);
        Self { keys: HashMap::with_hasher(state(40)), conns: HashSet::with_hasher(state(43)) }
    }

    /// `conn` registers with `key`, and its session is kept.
    pub(crate) fn register(&mut self, user: i64, key: &str, conn: ConnId) {
        self.keys.entry(user).or_default().entry(key.into()).or_default().push(conn);
        self.conns.insert(conn);
    }

    /// The connection has ended. The session of its key remains.
    pub(crate) fn end(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
    }

    /// The session of `key` no longer belongs to `conn`.
    pub(crate) fn give_up(&mut self, user: i64, key: &str, conn: ConnId) {
        let Some(keys) = self.keys.get_mut(&user) else { return };
        let Some(conns) = keys.get_mut(key) else { return };
        conns.retain(|known| *known != conn);
        if conns.is_empty() {
            keys.remove(key);
        }
        if keys.is_empty() {
            self.keys.remove(&user);
        }
    }

    /// The keys of `user` that are reached by way of their homes, with the connections that may own them.
    pub(crate) fn keys_of(&self, user: i64) -> impl Iterator<Item = KeptKey> {
        let keys = self.keys.get(&user).into_iter().flatten();
        keys.map(move |(key, conns)| KeptKey { user, key: key.clone(), conns: conns[..].into() })
    }

    /// Whether `conn` is reached by way of its key.
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

    #[test]
    fn a_session_lasts_until_every_connection_has_given_it_up() {
        let mut users = KeptUsers::new(7);
        users.register(1, "k", conn(1));
        users.register(1, "k", conn(2));
        users.give_up(1, "k", conn(1));
        users.give_up(2, "k", conn(2));
        let keys: Vec<KeptKey> = users.keys_of(1).collect();
        assert_eq!((&*keys[0].key, &*keys[0].conns, keys.len()), ("k", &[conn(2)][..], 1));
        users.give_up(1, "k", conn(2));
        assert!(users.is_empty());
        assert!(users.is_kept(conn(1)));
        users.end(conn(1));
        assert!(!users.is_kept(conn(1)));
    }
}
