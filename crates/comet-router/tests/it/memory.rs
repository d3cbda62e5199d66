//! The store in memory, with a clock that goes when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use comet_router::{Counts, Memory, Sessions, Store, StoreError};

use crate::conformance::{Aged, LIFETIME, check};

struct Told {
    store: Store,
    millis: Arc<AtomicU64>,
}

impl Told {
    fn new(sessions_max: usize) -> Self {
        let millis = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&millis);
        let now = move || Duration::from_millis(clock.load(Ordering::Relaxed));
        Self { store: Store::Memory(Memory::with_clock(LIFETIME, sessions_max, now)), millis }
    }
}

impl Aged for Told {
    type Store = Store;

    fn store(&self) -> &Store {
        &self.store
    }

    async fn age(&mut self, by: Duration) {
        self.millis.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }

    async fn clear(&mut self) {
        *self = Self::new(10_000);
    }
}

#[tokio::test]
async fn memory_conforms() {
    check(Told::new(10_000)).await;
}

#[tokio::test]
async fn a_full_store_says_so_and_keeps_what_it_has() {
    let mut told = Told::new(2);
    told.store.put(1, "a", "s").await.unwrap();
    told.store.put(1, "b", "s").await.unwrap();
    let full = told.store.put(1, "c", "s").await.unwrap_err();
    assert_eq!(full, StoreError::Full { sessions_max: 2 });
    assert_eq!(full.to_string(), "the session store is full: it takes 2 sessions");
    told.store.put(1, "a", "t").await.unwrap();
    assert!(told.store.renew(1, "b", "s").await.unwrap());
    assert_eq!(told.store.counts().await.unwrap().sessions, 2);

    assert!(told.store.del(1, "a", "t").await.unwrap());
    told.store.put(2, "c", "s").await.unwrap();
    assert!(told.store.del(1, "b", "s").await.unwrap());
    assert_eq!(told.store.put(3, "d", "s").await, Err(full), "two users are remembered");
    told.age(LIFETIME).await;
    told.store.put(3, "d", "s").await.unwrap();
}

/// Each call sweeps a bounded number of expired sessions; what is not swept yet is not found either.
#[tokio::test]
async fn a_crowd_that_expired_at_once_is_gone_at_once_and_swept_later() {
    const CROWD: i64 = 1_000;
    let mut told = Told::new(10_000);
    for user in 1..=CROWD {
        told.store.put(user, "", "s").await.unwrap();
    }
    told.age(LIFETIME).await;
    let users: Vec<i64> = (1..=CROWD).collect();
    let found = told.store.sessions_of(&users).await.unwrap();
    assert!(found.iter().all(|(_, sessions)| sessions.is_empty()));
    assert_eq!(told.store.servers_of_keys(&["1000_1"]).await.unwrap(), [None]);
    assert!(told.store.counts().await.unwrap().sessions > 0, "a call does not sweep a thousand");
    assert_eq!(told.store.put(CROWD, "", "s").await.unwrap().sequence, 1, "forgotten, not swept");

    for _ in 0..CROWD {
        told.store.servers_of_keys(&[]).await.unwrap();
    }
    let counts = told.store.counts().await.unwrap();
    assert_eq!((counts.users, counts.sessions), (1, 1));
    assert_eq!(told.store.del_server("s").await.unwrap(), 1);
    assert_eq!(told.store.counts().await.unwrap(), Counts::default());
}

/// A server's sessions that expired unswept are not counted as ended.
#[tokio::test]
async fn a_late_del_server_counts_the_living() {
    let mut told = Told::new(10_000);
    for user in 1..=700 {
        told.store.put(user, "", "s").await.unwrap();
    }
    told.age(LIFETIME).await;
    told.store.put(1, "new", "s").await.unwrap();
    assert_eq!(told.store.del_server("s").await.unwrap(), 1);
    assert_eq!(told.store.counts().await.unwrap().sessions, 0);
}
