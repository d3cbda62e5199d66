//! The tables of [`Memory`](super::Memory): sessions by key, by user and by server. Plain data; the
//! time is an argument.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::sessions::SessionCounts;

/// Sessions, users and servers, and their expiry times.
///
/// Every key in `users` and `servers` is in `keys`. Everything that expires is in `expiries` once.
#[derive(Default, Debug)]
pub(super) struct Table {
    keys: HashMap<Arc<str>, StoredSession>,
    users: HashMap<i64, StoredUser>,
    servers: HashMap<Arc<str>, StoredServer>,
    expiries: BTreeSet<(Duration, Expiring)>,
    /// The number of users with sessions.
    users_with_sessions: u64,
}

/// A session; its key is that of the map.
#[derive(Debug)]
pub(super) struct StoredSession {
    pub(super) user: i64,
    pub(super) server: Arc<str>,
    until: Duration,
}

#[derive(Debug)]
struct StoredUser {
    sequence: i32,
    keys: BTreeSet<Arc<str>>,
    /// When the sequence is forgotten: never before the sessions expire.
    until: Duration,
}

#[derive(Default, Debug)]
struct StoredServer {
    keys: HashSet<Arc<str>>,
}

/// What expires. A session comes before its user if both expire at the same time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Expiring {
    Session(Arc<str>),
    User(i64),
}

impl Table {
    /// The number of sessions, with expired ones that were not swept yet.
    pub(super) fn sessions(&self) -> usize {
        self.keys.len()
    }

    /// The number of remembered users, with or without sessions.
    pub(super) fn users(&self) -> usize {
        self.users.len()
    }

    /// Whether the table has an entry for `key`, expired or not.
    pub(super) fn has_key(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Whether the table has an entry for `user`, expired or not.
    pub(super) fn has_user(&self, user: i64) -> bool {
        self.users.contains_key(&user)
    }

    /// Removes up to `most` expired entries.
    pub(super) fn sweep(&mut self, now: Duration, most: usize) {
        for _ in 0..most {
            if self.expiries.first().is_none_or(|(until, _)| *until > now) {
                return;
            }
            match self.expiries.pop_first().expect("a first entry was found").1 {
                Expiring::Session(key) => self.remove(&key),
                Expiring::User(user) => {
                    let forgotten = self.users.remove(&user).expect("an expiry has its user");
                    assert!(forgotten.keys.is_empty(), "a user outlives its sessions");
                }
            }
        }
    }

    /// The live session with `key`.
    pub(super) fn session(&self, key: &str, now: Duration) -> Option<&StoredSession> {
        self.keys.get(key).filter(|session| session.until > now)
    }

    /// Keys and servers of a user's live sessions.
    pub(super) fn sessions_of(&self, user: i64, now: Duration) -> Vec<(String, String)> {
        let keys = self.users.get(&user).into_iter().flat_map(|user| &user.keys);
        keys.filter_map(|key| Some((key.to_string(), self.session(key, now)?.server.to_string())))
            .collect()
    }

    /// The next sequence of `user`, which is then remembered until `until`.
    pub(super) fn next_sequence(&mut self, user: i64, now: Duration, until: Duration) -> i32 {
        let forgotten = self.users.get(&user).is_some_and(|known| known.until <= now);
        self.remember(user, until);
        let known = self.users.get_mut(&user).expect("remembered just now");
        known.sequence = if forgotten { 1 } else { known.sequence.checked_add(1).unwrap_or(1) };
        known.sequence
    }

    /// Remembers `user` until `until`. The sequence of a new user is 0.
    pub(super) fn remember(&mut self, user: i64, until: Duration) {
        let new = || StoredUser { sequence: 0, keys: BTreeSet::new(), until };
        let known = self.users.entry(user).or_insert_with(new);
        self.expiries.remove(&(known.until, Expiring::User(user)));
        known.until = until;
        self.expiries.insert((until, Expiring::User(user)));
    }

    /// Makes the next sequence of `user`, which must be remembered, greater than `sequence`.
    pub(super) fn raise_sequence(&mut self, user: i64, sequence: i32) {
        let known = self.users.get_mut(&user).expect("a user with sessions is remembered");
        known.sequence = known.sequence.max(sequence);
    }

    /// Gives `key` to this user and server, whatever its owner was. The user must be remembered at
    /// least until `until`.
    pub(super) fn place(&mut self, user: i64, key: &str, server: &str, until: Duration) {
        self.remove(key);
        let key: Arc<str> = key.into();
        let server = self.insert_server(server);
        let entry = self.servers.get_mut(&server).expect("it was inserted above");
        entry.keys.insert(Arc::clone(&key));
        if user != 0 {
            let owner = self.users.get_mut(&user).expect("a user with sessions is remembered");
            self.users_with_sessions += u64::from(owner.keys.is_empty());
            owner.keys.insert(Arc::clone(&key));
        }
        self.expiries.insert((until, Expiring::Session(Arc::clone(&key))));
        self.keys.insert(key, StoredSession { user, server, until });
    }

    /// Removes the session with `key`, if there is one.
    pub(super) fn remove(&mut self, key: &str) {
        let Some((key, session)) = self.keys.remove_entry(key) else {
            return;
        };
        self.expiries.remove(&(session.until, Expiring::Session(Arc::clone(&key))));
        if session.user != 0 {
            let owner =
                self.users.get_mut(&session.user).expect("a user with sessions is remembered");
            owner.keys.remove(&key);
            self.users_with_sessions -= u64::from(owner.keys.is_empty());
        }
        self.servers
            .get_mut(&session.server)
            .expect("a server with sessions is in the table")
            .keys
            .remove(&key);
        self.remove_if_empty(&session.server);
    }

    /// Removes up to `most` sessions of `server`. Returns how many were removed, and how many of
    /// them had not expired.
    pub(super) fn take_from_server(
        &mut self,
        server: &str,
        most: usize,
        now: Duration,
        until: Duration,
    ) -> (usize, u64) {
        let keys = self.servers.get(server).into_iter().flat_map(|server| &server.keys);
        let keys: Vec<Arc<str>> = keys.take(most).cloned().collect();
        let mut live = 0;
        for key in &keys {
            if let Some(session) = self.session(key, now) {
                live += 1;
                self.remember(session.user, until);
            }
            self.remove(key);
        }
        (keys.len(), live)
    }

    /// How many sessions there are.
    pub(super) fn counts(&self) -> SessionCounts {
        SessionCounts {
            users: self.users_with_sessions,
            sessions: self.keys.len() as u64,
            by_server: self
                .servers
                .iter()
                .map(|(name, server)| (name.to_string(), server.keys.len() as u64))
                .collect(),
        }
    }

    /// The shared name of a server. Inserts the server if it is new.
    fn insert_server(&mut self, name: &str) -> Arc<str> {
        if let Some((known, _)) = self.servers.get_key_value(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.servers.insert(Arc::clone(&name), StoredServer::default());
        name
    }

    /// Removes a server that has no session any more.
    fn remove_if_empty(&mut self, name: &Arc<str>) {
        if let Entry::Occupied(server) = self.servers.entry(Arc::clone(name))
            && server.get().keys.is_empty()
        {
            server.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Place { user: i64, key: u8, server: u8 },
        Remove { key: u8 },
        Take { server: u8 },
        Pass { millis: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_i64, 0..8_u8, 0..3_u8).prop_map(|(user, key, server)| Step::Place {
                user,
                key,
                server
            }),
            (0..8_u8).prop_map(|key| Step::Remove { key }),
            (0..3_u8).prop_map(|server| Step::Take { server }),
            (0..60_u64).prop_map(|millis| Step::Pass { millis }),
        ]
    }

    fn check_consistency(table: &Table) {
        let owned = table.users.values().map(|user| user.keys.len()).sum::<usize>();
        let anonymous = table.keys.values().filter(|session| session.user == 0).count();
        assert_eq!(owned + anonymous, table.keys.len());
        assert_eq!(
            table.servers.values().map(|server| server.keys.len()).sum::<usize>(),
            table.keys.len()
        );
        assert_eq!(table.expiries.len(), table.keys.len() + table.users.len());
        let present = table.users.values().filter(|user| !user.keys.is_empty()).count();
        assert_eq!(table.users_with_sessions, present as u64);
        assert!(table.servers.values().all(|server| !server.keys.is_empty()));
    }

    proptest! {
        #[test]
        fn tables_stay_consistent_and_are_empty_in_the_end(steps in prop::collection::vec(step(), 1..200)) {
            const LIFETIME: Duration = Duration::from_millis(100);
            let mut table = Table::default();
            let mut now = Duration::ZERO;
            for step in steps {
                let until = now + LIFETIME;
                match step {
                    Step::Place { user, key, server } => {
                        table.remember(user, until);
                        table.place(user, &key.to_string(), &server.to_string(), until);
                    }
                    Step::Remove { key } => table.remove(&key.to_string()),
                    Step::Take { server } => {
                        table.take_from_server(&server.to_string(), 2, now, until);
                    }
                    Step::Pass { millis } => now += Duration::from_millis(millis),
                }
                table.sweep(now, 2);
                check_consistency(&table);
            }
            table.sweep(now + LIFETIME, usize::MAX);
            prop_assert!(table.expiries.is_empty() && table.keys.is_empty());
            prop_assert!(table.users.is_empty() && table.servers.is_empty());
        }
    }
}
