//! [`Memory`]: sessions in this process, for a single logic service. They are lost when it ends.

mod rooms;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use self::rooms::{Reports, TooMany};
use self::table::Table;
use crate::error::StoreError;
use crate::sessions::{
    Buckets, Placed, ROOM_COUNTS_LIFETIME_MAX, SessionCounts, Sessions, UserSessions,
};

/// Most expired entries that one call removes. It is more than a call adds, so they do not
/// accumulate.
const SWEEP_MAX: usize = 64;
/// Sessions that [`Sessions::del_server`] ends before it lets other calls run.
const BATCH: usize = 256;

/// Returns the time since a fixed point in the past.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Sessions behind one lock, and reports of rooms behind another. Calls wait for nothing else, so they need no
/// deadline.
pub struct Memory {
    lifetime: Duration,
    sessions_max: usize,
    rooms_max: usize,
    clock: Clock,
    table: Mutex<Table>,
    reports: Reports,
}

impl Memory {
    /// Most sessions, and most remembered users, of a store made by [`Memory::new`].
    pub const SESSIONS_MAX: usize = 1 << 24;

    /// Most rooms of all servers together. Each server counts as at least 1,024.
    pub const ROOMS_MAX: usize = 1 << 22;

    /// A store of sessions that expire after `lifetime`.
    #[must_use]
    pub fn new(lifetime: Duration) -> Self {
        let start = Instant::now();
        Self::with_clock(lifetime, Self::SESSIONS_MAX, move || start.elapsed())
    }

    /// A store of at most `sessions_max` sessions and as many remembered users. `clock` returns the
    /// time since a fixed point in the past; it must not go back.
    #[must_use]
    pub fn with_clock(
        lifetime: Duration,
        sessions_max: usize,
        clock: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        let (clock, rooms_max) = (Box::new(clock), Self::ROOMS_MAX);
        let (table, reports) = (Mutex::default(), Reports::default());
        Self { lifetime, sessions_max, rooms_max, clock, table, reports }
    }

    /// Uses another bound than [`Memory::ROOMS_MAX`].
    #[must_use]
    pub fn with_rooms_max(self, rooms_max: usize) -> Self {
        Self { rooms_max, ..self }
    }

    /// Locks the table and removes expired entries. Returns it with the time.
    fn lock(&self) -> (MutexGuard<'_, Table>, Duration) {
        let now = (self.clock)();
        let mut table = self.table.lock().expect("no call panics while it holds the table");
        table.sweep(now, SWEEP_MAX);
        (table, now)
    }

    /// Checks that there is room for a session with `key`; an empty key is a new one.
    fn check_capacity(&self, table: &Table, user: i64, key: &str) -> Result<(), StoreError> {
        let has_session_room = table.sessions() < self.sessions_max || table.has_key(key);
        let has_user_room = table.users() < self.sessions_max || table.has_user(user);
        if has_session_room && has_user_room {
            Ok(())
        } else {
            Err(StoreError::Full { sessions_max: self.sessions_max })
        }
    }
}

/// The key of a session that was begun without one.
fn key_of(user: i64, sequence: i32) -> String {
    format!("{user}_{sequence}")
}

/// The sequence in `key`, if [`key_of`] made it.
fn sequence_of(user: i64, key: &str) -> Option<i32> {
    let (_, sequence) = key.rsplit_once('_')?;
    let sequence = sequence.parse().ok()?;
    (sequence > 0 && key == key_of(user, sequence)).then_some(sequence)
}

impl fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Memory")
            .field("lifetime", &self.lifetime)
            .field("sessions_max", &self.sessions_max)
            .finish_non_exhaustive()
    }
}

impl Sessions for Memory {
    async fn put(&self, user: i64, key: &str, server: &str) -> Result<Placed, StoreError> {
        let (mut table, now) = self.lock();
        self.check_capacity(&table, user, key)?;
        let until = now + self.lifetime;
        let mut sequence = table.next_sequence(user, now, until);
        let key = if key.is_empty() {
            // The key may be in use: a token can contain it, and the sequence starts again after
            // its maximum.
            while table.session(&key_of(user, sequence), now).is_some() {
                sequence = table.next_sequence(user, now, until);
            }
            key_of(user, sequence)
        } else {
            key.to_owned()
        };
        table.place(user, &key, server, until);
        Ok(Placed { sequence, key })
    }

    async fn del(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        let (mut table, now) = self.lock();
        let is_owner = table
            .session(key, now)
            .is_some_and(|entry| entry.user == user && *entry.server == *server);
        if is_owner {
            table.remember(user, now + self.lifetime);
            table.remove(key);
        }
        Ok(is_owner)
    }

    async fn renew(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        let (mut table, now) = self.lock();
        if table
            .session(key, now)
            .is_some_and(|entry| entry.user != user || *entry.server != *server)
        {
            return Ok(false);
        }
        self.check_capacity(&table, user, key)?;
        let until = now + self.lifetime;
        table.remember(user, until);
        if let Some(sequence) = sequence_of(user, key) {
            table.raise_sequence(user, sequence);
        }
        table.place(user, key, server, until);
        Ok(true)
    }

    async fn servers_of_keys(&self, keys: &[&str]) -> Result<Vec<Option<String>>, StoreError> {
        let (table, now) = self.lock();
        let server = |key: &&str| table.session(key, now).map(|entry| entry.server.to_string());
        Ok(keys.iter().map(server).collect())
    }

    async fn sessions_of(&self, users: &[i64]) -> Result<Vec<UserSessions>, StoreError> {
        let (table, now) = self.lock();
        Ok(users.iter().map(|&user| (user, table.sessions_of(user, now))).collect())
    }

    async fn del_server(&self, server: &str) -> Result<u64, StoreError> {
        self.add_room_counts(server, Buckets::ALL, &HashMap::new()).await?;
        let mut ended = 0;
        loop {
            let (taken, live) = {
                let (mut table, now) = self.lock();
                table.take_from_server(server, BATCH, now, now + self.lifetime)
            };
            ended += live;
            if taken < BATCH {
                return Ok(ended);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn add_room_counts(
        &self,
        server: &str,
        buckets: Buckets,
        rooms: &HashMap<String, u32>,
    ) -> Result<(), StoreError> {
        let now = (self.clock)();
        let until = now + self.lifetime.min(ROOM_COUNTS_LIFETIME_MAX);
        let rooms_max = self.rooms_max;
        let replaced = self.reports.replace(server, buckets, rooms, (now, until), rooms_max);
        replaced.map_err(|TooMany| StoreError::TooManyRooms { rooms_max })
    }

    async fn room_counts(&self) -> Result<HashMap<String, u32>, StoreError> {
        Ok(self.reports.sums((self.clock)()))
    }

    async fn members_of(&self, rooms: &[String]) -> Result<Vec<u32>, StoreError> {
        Ok(self.reports.members(rooms, (self.clock)()))
    }

    async fn counts(&self) -> Result<SessionCounts, StoreError> {
        Ok(self.lock().0.counts())
    }
}
