//! The tables of [`Memory`](super::Memory): sessions by key, and who refers to them. Plain data;
//! the time comes in as an argument.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::Counts;

/// Sessions, users and servers, and what expires next.
///
/// Every key in `users` and `servers` is in `keys`, and everything with a deadline is in `due` once.
#[derive(Default, Debug)]
pub(super) struct Table {
    keys: HashMap<Arc<str>, Held>,
    users: HashMap<i64, User>,
    servers: HashMap<Arc<str>, Server>,
    due: BTreeSet<(Duration, Due)>,
    /// Users with sessions.
    present: u64,
}

/// A session, found by its key.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) user: i64,
    pub(super) server: Arc<str>,
    until: Duration,
}

#[derive(Debug)]
struct User {
    sequence: i32,
    keys: BTreeSet<Arc<str>>,
    /// When the sequence is forgotten: never before the sessions expire.
    until: Duration,
}

#[derive(Default, Debug)]
struct Server {
    keys: HashSet<Arc<str>>,
    rooms: HashMap<String, u32>,
    /// When `rooms` expire; means nothing while there are none.
    until: Duration,
}

/// What expires. Sessions come before their user where both are due at the same time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Due {
    Session(Arc<str>),
    User(i64),
    Rooms(Arc<str>),
}

impl Table {
    /// Sessions, those expired but not yet swept among them.
    pub(super) fn sessions(&self) -> usize {
        self.keys.len()
    }

    /// Users remembered, with sessions or without.
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

    /// Removes what has expired, `most` entries at most.
    pub(super) fn sweep(&mut self, now: Duration, most: usize) {
        for _ in 0..most {
            if self.due.first().is_none_or(|(until, _)| *until > now) {
                return;
            }
            match self.due.pop_first().expect("it has a first").1 {
                Due::Session(key) => self.remove(&key),
                Due::User(user) => {
                    let forgotten = self.users.remove(&user).expect("what is due is there");
                    assert!(forgotten.keys.is_empty(), "a user outlives its sessions");
                }
                Due::Rooms(server) => self.set_rooms(&server, HashMap::new(), now),
            }
        }
    }

    /// The live session with `key`.
    pub(super) fn session(&self, key: &str, now: Duration) -> Option<&Held> {
        self.keys.get(key).filter(|held| held.until > now)
    }

    /// Keys and servers of a user's live sessions.
    pub(super) fn sessions_of(&self, user: i64, now: Duration) -> Vec<(String, String)> {
        let keys = self.users.get(&user).into_iter().flat_map(|user| &user.keys);
        keys.filter_map(|key| Some((key.to_string(), self.session(key, now)?.server.to_string())))
            .collect()
    }

    /// Counts a session of `user` and remembers the count until `until`.
    pub(super) fn count(&mut self, user: i64, now: Duration, until: Duration) -> i32 {
        let forgotten = self.users.get(&user).is_some_and(|known| known.until <= now);
        self.remember(user, until);
        let known = self.users.get_mut(&user).expect("remembered just now");
        known.sequence = if forgotten { 1 } else { known.sequence.checked_add(1).unwrap_or(1) };
        known.sequence
    }

    /// Remembers `user` until `until`, from 0 sessions on if it is new.
    pub(super) fn remember(&mut self, user: i64, until: Duration) {
        let fresh = || User { sequence: 0, keys: BTreeSet::new(), until };
        let known = self.users.entry(user).or_insert_with(fresh);
        self.due.remove(&(known.until, Due::User(user)));
        known.until = until;
        self.due.insert((until, Due::User(user)));
    }

    /// The next session of `user`, who is remembered, comes after `sequence`.
    pub(super) fn count_on(&mut self, user: i64, sequence: i32) {
        let known = self.users.get_mut(&user).expect("who has sessions is remembered");
        known.sequence = known.sequence.max(sequence);
    }

    /// Makes `key` this user's and server's, whoever's it was. The user is remembered at least as
    /// long.
    pub(super) fn place(&mut self, user: i64, key: &str, server: &str, until: Duration) {
        self.remove(key);
        let key: Arc<str> = key.into();
        let server = self.server(server);
        let held = self.servers.get_mut(&server).expect("made just now");
        held.keys.insert(Arc::clone(&key));
        if user != 0 {
            let owner = self.users.get_mut(&user).expect("who has sessions is remembered");
            self.present += u64::from(owner.keys.is_empty());
            owner.keys.insert(Arc::clone(&key));
        }
        self.due.insert((until, Due::Session(Arc::clone(&key))));
        self.keys.insert(key, Held { user, server, until });
    }

    /// Removes the session with `key`, if there is one.
    pub(super) fn remove(&mut self, key: &str) {
        let Some((key, held)) = self.keys.remove_entry(key) else {
            return;
        };
        self.due.remove(&(held.until, Due::Session(Arc::clone(&key))));
        if held.user != 0 {
            let owner = self.users.get_mut(&held.user).expect("who has sessions is remembered");
            owner.keys.remove(&key);
            self.present -= u64::from(owner.keys.is_empty());
        }
        self.servers.get_mut(&held.server).expect("who holds keys is there").keys.remove(&key);
        self.drop_if_bare(&held.server);
    }

    /// Ends up to `most` sessions of `server`: how many were taken, and how many of them were live.
    pub(super) fn take(
        &mut self,
        server: &str,
        most: usize,
        now: Duration,
        until: Duration,
    ) -> (usize, u64) {
        let held = self.servers.get(server).into_iter().flat_map(|server| &server.keys);
        let keys: Vec<Arc<str>> = held.take(most).cloned().collect();
        let mut live = 0;
        for key in &keys {
            if let Some(held) = self.session(key, now) {
                live += 1;
                self.remember(held.user, until);
            }
            self.remove(key);
        }
        (keys.len(), live)
    }

    /// Replaces the room counts of `server`, which expire at `until`.
    pub(super) fn set_rooms(&mut self, server: &str, rooms: HashMap<String, u32>, until: Duration) {
        let server = self.server(server);
        let known = self.servers.get_mut(&server).expect("made just now");
        self.due.remove(&(known.until, Due::Rooms(Arc::clone(&server))));
        known.until = until;
        known.rooms = rooms;
        if !known.rooms.is_empty() {
            self.due.insert((until, Due::Rooms(Arc::clone(&server))));
        }
        self.drop_if_bare(&server);
    }

    /// Members of every room over all servers, as far as they have not expired.
    pub(super) fn room_counts(&self, now: Duration) -> HashMap<String, u32> {
        let mut sums: HashMap<String, u32> = HashMap::new();
        let live = self.servers.values().filter(|server| server.until > now);
        for (room, count) in live.flat_map(|server| &server.rooms) {
            let sum = sums.entry(room.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
        sums
    }

    /// How much there is.
    pub(super) fn counts(&self) -> Counts {
        let held = self.servers.iter().filter(|(_, server)| !server.keys.is_empty());
        Counts {
            users: self.present,
            sessions: self.keys.len() as u64,
            by_server: held
                .map(|(name, server)| (name.to_string(), server.keys.len() as u64))
                .collect(),
        }
    }

    /// The shared name of a server, which has an entry from now on.
    fn server(&mut self, name: &str) -> Arc<str> {
        if let Some((known, _)) = self.servers.get_key_value(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        self.servers.insert(Arc::clone(&name), Server::default());
        name
    }

    /// Forgets a server that has neither sessions nor room counts.
    fn drop_if_bare(&mut self, name: &Arc<str>) {
        if let Entry::Occupied(server) = self.servers.entry(Arc::clone(name))
            && server.get().keys.is_empty()
            && server.get().rooms.is_empty()
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
        Rooms { server: u8, rooms: u32 },
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
            (0..3_u8, 0..3_u32).prop_map(|(server, rooms)| Step::Rooms { server, rooms }),
            (0..60_u64).prop_map(|millis| Step::Pass { millis }),
        ]
    }

    fn check_books(table: &Table) {
        let owned = table.users.values().map(|user| user.keys.len()).sum::<usize>();
        let nobody = table.keys.values().filter(|held| held.user == 0).count();
        assert_eq!(owned + nobody, table.keys.len());
        assert_eq!(
            table.servers.values().map(|server| server.keys.len()).sum::<usize>(),
            table.keys.len()
        );
        let with_rooms = table.servers.values().filter(|server| !server.rooms.is_empty()).count();
        assert_eq!(table.due.len(), table.keys.len() + table.users.len() + with_rooms);
        let present = table.users.values().filter(|user| !user.keys.is_empty()).count();
        assert_eq!(table.present, present as u64);
        assert!(
            table
                .servers
                .values()
                .all(|server| { !(server.keys.is_empty() && server.rooms.is_empty()) })
        );
    }

    proptest! {
        #[test]
        fn the_books_agree_and_empty_in_the_end(steps in prop::collection::vec(step(), 1..200)) {
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
                        table.take(&server.to_string(), 2, now, until);
                    }
                    Step::Rooms { server, rooms } => {
                        let rooms = (0..rooms).map(|room| (room.to_string(), 1)).collect();
                        table.set_rooms(&server.to_string(), rooms, until);
                    }
                    Step::Pass { millis } => now += Duration::from_millis(millis),
                }
                table.sweep(now, 2);
                check_books(&table);
            }
            table.sweep(now + LIFETIME, usize::MAX);
            prop_assert!(table.due.is_empty() && table.keys.is_empty());
            prop_assert!(table.users.is_empty() && table.servers.is_empty());
        }
    }
}
