//! The store in memory, with a clock that the tests set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use comet_router::{Buckets, Memory, SessionCounts, Sessions, Store, StoreError};

use crate::conformance::{AgingStore, LIFETIME, check};

struct ManualClock {
    store: Store,
    millis: Arc<AtomicU64>,
}

impl ManualClock {
    fn new(sessions_max: usize) -> Self {
        let millis = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&millis);
        let now = move || Duration::from_millis(clock.load(Ordering::Relaxed));
        Self { store: Store::Memory(Memory::with_clock(LIFETIME, sessions_max, now)), millis }
    }
}

impl AgingStore for ManualClock {
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
    check(ManualClock::new(10_000)).await;
}

#[tokio::test]
async fn a_full_store_is_an_error_and_keeps_its_sessions() {
    let mut kind = ManualClock::new(2);
    kind.store.put(1, "a", "s").await.unwrap();
    kind.store.put(1, "b", "s").await.unwrap();
    let full = kind.store.put(1, "c", "s").await.unwrap_err();
    assert_eq!(full, StoreError::Full { sessions_max: 2 });
    assert_eq!(full.to_string(), "the session store is full: it takes 2 sessions");
    kind.store.put(1, "a", "t").await.unwrap();
    assert!(kind.store.renew(1, "b", "s").await.unwrap());
    assert_eq!(kind.store.counts().await.unwrap().sessions, 2);

    assert!(kind.store.del(1, "a", "t").await.unwrap());
    kind.store.put(2, "c", "s").await.unwrap();
    assert!(kind.store.del(1, "b", "s").await.unwrap());
    assert_eq!(kind.store.put(3, "d", "s").await, Err(full), "two users are remembered");
    kind.age(LIFETIME).await;
    kind.store.put(3, "d", "s").await.unwrap();
}

/// Each call removes a bounded number of expired sessions. Those that remain are not found any
/// more.
#[tokio::test]
async fn many_expired_sessions_are_not_found_and_removed_gradually() {
    const SESSIONS: i64 = 1_000;
    let mut kind = ManualClock::new(10_000);
    for user in 1..=SESSIONS {
        kind.store.put(user, "", "s").await.unwrap();
    }
    kind.age(LIFETIME).await;
    let users: Vec<i64> = (1..=SESSIONS).collect();
    let found = kind.store.sessions_of(&users).await.unwrap();
    assert!(found.iter().all(|(_, sessions)| sessions.is_empty()));
    assert_eq!(kind.store.servers_of_keys(&["1000_1"]).await.unwrap(), [None]);
    assert!(kind.store.counts().await.unwrap().sessions > 0, "one call does not remove a thousand");
    assert_eq!(
        kind.store.put(SESSIONS, "", "s").await.unwrap().sequence,
        1,
        "forgotten, though not removed"
    );

    for _ in 0..SESSIONS {
        kind.store.servers_of_keys(&[]).await.unwrap();
    }
    let counts = kind.store.counts().await.unwrap();
    assert_eq!((counts.users, counts.sessions), (1, 1));
    assert_eq!(kind.store.del_server("s").await.unwrap(), 1);
    assert_eq!(kind.store.counts().await.unwrap(), SessionCounts::default());
}

/// Expired sessions of a server are not counted as ended, even if they were not removed yet.
#[tokio::test]
async fn del_server_counts_only_live_sessions() {
    let mut kind = ManualClock::new(10_000);
    for user in 1..=700 {
        kind.store.put(user, "", "s").await.unwrap();
    }
    kind.age(LIFETIME).await;
    kind.store.put(1, "new", "s").await.unwrap();
    assert_eq!(kind.store.del_server("s").await.unwrap(), 1);
    assert_eq!(kind.store.counts().await.unwrap().sessions, 0);
}

/// Callers choose the names of servers, too.
#[tokio::test]
async fn rooms_are_bounded_over_all_servers() {
    let store = Memory::new(LIFETIME).with_rooms_max(4_096);
    let rooms = |count: u32| (0..count).map(|room| (room.to_string(), 1)).collect();
    store.add_room_counts("a", Buckets::ALL, &rooms(2_000)).await.unwrap();
    store.add_room_counts("b", Buckets::ALL, &rooms(1)).await.unwrap();
    let full = store.add_room_counts("c", Buckets::ALL, &rooms(1_100)).await.unwrap_err();
    assert_eq!(full, StoreError::TooManyRooms { rooms_max: 4_096 });
    assert_eq!(full.to_string(), "the session store is full: it takes 4096 rooms");
    store.add_room_counts("c", Buckets::ALL, &rooms(1)).await.unwrap();
    store.add_room_counts("d", Buckets::ALL, &rooms(1)).await.unwrap_err();
    // Stored rooms are renewed, and their counts become smaller.
    store.add_room_counts("a", Buckets::ALL, &rooms(2_048)).await.unwrap();
    store.add_room_counts("a", Buckets::ALL, &rooms(1)).await.unwrap();
    store.add_room_counts("d", Buckets::ALL, &rooms(1)).await.unwrap();
    assert_eq!(store.members_of(&["0".to_owned()]).await.unwrap(), [4]);
}

/// The counts of a million rooms are summed while sessions begin.
#[test]
fn sums_of_many_rooms_hold_up_no_session() {
    let store = Arc::new(Memory::new(LIFETIME));
    let rooms = (0..1_000_000).map(|room| (format!("live://{room}"), 1)).collect();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime().block_on(store.add_room_counts("a", Buckets::ALL, &rooms)).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let adding = thread::spawn({
        let (store, is_over) = (Arc::clone(&store), Arc::clone(&is_over));
        move || {
            let sums = runtime().block_on(store.room_counts()).unwrap();
            is_over.store(true, Ordering::Release);
            sums.len()
        }
    });
    let (runtime, mut begun) = (runtime(), 0);
    while !is_over.load(Ordering::Acquire) {
        runtime.block_on(store.put(7, "k", "a")).unwrap();
        begun += 1;
    }
    assert_eq!(adding.join().unwrap(), 1_000_000);
    // If the store were blocked, only a few sessions would have begun.
    assert!(begun > 1_000, "{begun}");
}
