//! [`Memory`]: sessions in this process, for one logic service that may forget them when it ends.

mod table;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use self::table::Table;
use crate::{Counts, Placed, ROOM_COUNTS_LIFETIME_MAX, Sessions, StoreError, UserSessions};

/// Expired entries a call removes on its way. More than a call adds, so none pile up.
const SWEEP_MAX: usize = 64;
/// Sessions [`Sessions::del_server`] ends before it lets other calls in.
const BATCH: usize = 256;

/// The time since any fixed moment.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Sessions behind one lock. Its calls never wait for anything else and never miss a deadline.
pub struct Memory {
    lifetime: Duration,
    sessions_max: usize,
    clock: Clock,
    table: Mutex<Table>,
}

impl Memory {
    /// Sessions, and users remembered, that a store made by [`Memory::new`] takes.
    pub const SESSIONS_MAX: usize = 1 << 24;

    /// A store of sessions that expire after `lifetime`.
    #[must_use]
    pub fn new(lifetime: Duration) -> Self {
        let start = Instant::now();
        Self::with_clock(lifetime, Self::SESSIONS_MAX, move || start.elapsed())
    }

    /// A store of at most `sessions_max` sessions, and of as many users remembered, to which
    /// `clock` says the time: since any fixed moment, never less than before.
    #[must_use]
    pub fn with_clock(
        lifetime: Duration,
        sessions_max: usize,
        clock: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self { lifetime, sessions_max, clock: Box::new(clock), table: Mutex::default() }
    }

    /// The table, swept, and the time.
    fn open(&self) -> (MutexGuard<'_, Table>, Duration) {
        let now = (self.clock)();
        let mut table = self.table.lock().expect("no call panics while it holds the table");
        table.sweep(now, SWEEP_MAX);
        (table, now)
    }

    /// Whether a session with `key` can be placed; an empty key is a new one.
    fn check_room(&self, table: &Table, user: i64, key: &str) -> Result<(), StoreError> {
        let key_fits = table.sessions() < self.sessions_max || table.has_key(key);
        let user_fits = table.users() < self.sessions_max || table.has_user(user);
        if key_fits && user_fits {
            Ok(())
        } else {
            Err(StoreError::Full { sessions_max: self.sessions_max })
        }
    }
}

/// The key of a session that came without one.
fn numbered(user: i64, sequence: i32) -> String {
    format!("{user}_{sequence}")
}

/// The sequence in `key`, if the key is [`numbered`].
fn number(user: i64, key: &str) -> Option<i32> {
    let (_, sequence) = key.rsplit_once('_')?;
    let sequence = sequence.parse().ok()?;
    (sequence > 0 && key == numbered(user, sequence)).then_some(sequence)
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
        let (mut table, now) = self.open();
        self.check_room(&table, user, key)?;
        let until = now + self.lifetime;
        let mut sequence = table.count(user, now, until);
        let key = if key.is_empty() {
            // A token may have named such a key, and after the last number the first comes again.
            while table.session(&numbered(user, sequence), now).is_some() {
                sequence = table.count(user, now, until);
            }
            numbered(user, sequence)
        } else {
            key.to_owned()
        };
        table.place(user, &key, server, until);
        Ok(Placed { sequence, key })
    }

    async fn del(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        let (mut table, now) = self.open();
        let held = table
            .session(key, now)
            .is_some_and(|held| held.user == user && *held.server == *server);
        if held {
            table.remember(user, now + self.lifetime);
            table.remove(key);
        }
        Ok(held)
    }

    async fn renew(&self, user: i64, key: &str, server: &str) -> Result<bool, StoreError> {
        let (mut table, now) = self.open();
        if table.session(key, now).is_some_and(|held| held.user != user || *held.server != *server)
        {
            return Ok(false);
        }
        self.check_room(&table, user, key)?;
        let until = now + self.lifetime;
        table.remember(user, until);
        if let Some(sequence) = number(user, key) {
            table.count_on(user, sequence);
        }
        table.place(user, key, server, until);
        Ok(true)
    }

    async fn servers_of_keys(&self, keys: &[&str]) -> Result<Vec<Option<String>>, StoreError> {
        let (table, now) = self.open();
        let server = |key: &&str| table.session(key, now).map(|held| held.server.to_string());
        Ok(keys.iter().map(server).collect())
    }

    async fn sessions_of(&self, users: &[i64]) -> Result<Vec<UserSessions>, StoreError> {
        let (table, now) = self.open();
        Ok(users.iter().map(|&user| (user, table.sessions_of(user, now))).collect())
    }

    async fn del_server(&self, server: &str) -> Result<u64, StoreError> {
        self.open().0.set_rooms(server, HashMap::new(), Duration::ZERO);
        let mut ended = 0;
        loop {
            let (taken, live) = {
                let (mut table, now) = self.open();
                table.take(server, BATCH, now, now + self.lifetime)
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
        rooms: &HashMap<String, u32>,
    ) -> Result<(), StoreError> {
        let rooms = rooms.clone();
        let (mut table, now) = self.open();
        table.set_rooms(server, rooms, now + self.lifetime.min(ROOM_COUNTS_LIFETIME_MAX));
        Ok(())
    }

    async fn room_counts(&self) -> Result<HashMap<String, u32>, StoreError> {
        let (table, now) = self.open();
        Ok(table.room_counts(now))
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        Ok(self.open().0.counts())
    }
}
