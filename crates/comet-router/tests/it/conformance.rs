//! The behaviour of every kind of store. The module of each kind runs [`check`] on a store with
//! [`LIFETIME`].

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use comet_router::{Buckets, SessionCounts, Sessions};

/// The lifetime of sessions; long enough that none expires unless the suite lets time pass.
pub(crate) const LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);
const HALF: Duration = Duration::from_secs(60 * 60);

/// A store whose time can be advanced.
pub(crate) trait AgingStore {
    type Store: Sessions;

    fn store(&self) -> &Self::Store;

    /// Makes everything in the store older.
    async fn age(&mut self, by: Duration);

    /// Empties the store.
    async fn clear(&mut self);
}

/// Runs the suite.
pub(crate) async fn check(mut kind: impl AgingStore) {
    sessions_get_sequences_and_are_found(kind.store()).await;
    kind.clear().await;
    anonymous_sessions_are_not_listed(kind.store()).await;
    kind.clear().await;
    calls_for_a_former_owner_change_nothing(kind.store()).await;
    kind.clear().await;
    a_key_moves_between_users(kind.store()).await;
    kind.clear().await;
    long_queries_are_answered_in_order(kind.store()).await;
    kind.clear().await;
    deleting_a_server_ends_its_sessions(kind.store()).await;
    kind.clear().await;
    room_counts_are_replaced_and_summed(kind.store()).await;
    kind.clear().await;
    unusual_texts_are_distinguished(kind.store()).await;
    kind.clear().await;
    unrenewed_sessions_expire(&mut kind).await;
    kind.clear().await;
    renewing_an_expired_session_makes_it_again(&mut kind).await;
    kind.clear().await;
    the_sequence_is_remembered_for_a_lifetime(&mut kind).await;
    kind.clear().await;
    renewing_a_lost_session_continues_its_sequence(kind.store()).await;
    kind.clear().await;
    a_sequence_whose_key_is_in_use_is_skipped(kind.store()).await;
    kind.clear().await;
    room_counts_expire(&mut kind).await;
}

async fn servers(store: &impl Sessions, keys: &[&str]) -> Vec<Option<String>> {
    store.servers_of_keys(keys).await.unwrap()
}

async fn sessions(store: &impl Sessions, user: i64) -> Vec<(String, String)> {
    let mut answer = store.sessions_of(&[user]).await.unwrap();
    assert_eq!(answer.len(), 1);
    let (of, sessions) = answer.remove(0);
    assert_eq!(of, user);
    sessions
}

fn pair(key: &str, server: &str) -> (String, String) {
    (key.to_owned(), server.to_owned())
}

fn found(server: &str) -> Option<String> {
    Some(server.to_owned())
}

fn counts(users: u64, by_server: &[(&str, u64)]) -> SessionCounts {
    let by_server: BTreeMap<String, u64> =
        by_server.iter().map(|(server, sessions)| ((*server).to_owned(), *sessions)).collect();
    SessionCounts { users, sessions: by_server.values().sum(), by_server }
}

fn rooms(counts: &[(&str, u32)]) -> HashMap<String, u32> {
    counts.iter().map(|(room, count)| ((*room).to_owned(), *count)).collect()
}

async fn sessions_get_sequences_and_are_found(store: &impl Sessions) {
    let phone = store.put(7, "phone", "a").await.unwrap();
    assert_eq!((phone.sequence, phone.key.as_str()), (1, "phone"));
    let second = store.put(7, "", "b").await.unwrap();
    assert_eq!((second.sequence, second.key.as_str()), (2, "7_2"));
    let other = store.put(-8, "", "a").await.unwrap();
    assert_eq!((other.sequence, other.key.as_str()), (1, "-8_1"));

    assert_eq!(sessions(store, 7).await, [pair("7_2", "b"), pair("phone", "a")]);
    assert_eq!(sessions(store, -8).await, [pair("-8_1", "a")]);
    assert_eq!(sessions(store, 9).await, []);
    assert_eq!(servers(store, &["phone", "nobody", "7_2"]).await, [found("a"), None, found("b")]);
    assert_eq!(store.counts().await.unwrap(), counts(2, &[("a", 2), ("b", 1)]));

    assert!(store.del(7, "phone", "a").await.unwrap());
    assert!(!store.del(7, "phone", "a").await.unwrap(), "it has ended already");
    assert_eq!(sessions(store, 7).await, [pair("7_2", "b")]);
    assert!(store.del(7, "7_2", "b").await.unwrap());
    assert_eq!(sessions(store, 7).await, []);
    assert_eq!(store.counts().await.unwrap(), counts(1, &[("a", 1)]));
    assert_eq!(store.put(7, "", "a").await.unwrap().sequence, 3, "the sequence continues");
}

async fn anonymous_sessions_are_not_listed(store: &impl Sessions) {
    let first = store.put(0, "", "a").await.unwrap();
    let second = store.put(0, "", "a").await.unwrap();
    assert_eq!((first.key.as_str(), second.key.as_str()), ("0_1", "0_2"));
    assert_eq!(servers(store, &["0_1", "0_2"]).await, [found("a"), found("a")]);
    assert_eq!(sessions(store, 0).await, []);
    assert!(store.renew(0, "0_1", "a").await.unwrap());
    assert_eq!(store.counts().await.unwrap(), counts(0, &[("a", 2)]));
    assert!(store.del(0, "0_1", "a").await.unwrap());
    assert_eq!(store.counts().await.unwrap(), counts(0, &[("a", 1)]));
}

async fn calls_for_a_former_owner_change_nothing(store: &impl Sessions) {
    store.put(7, "phone", "old").await.unwrap();
    store.put(7, "phone", "new").await.unwrap();
    assert_eq!(store.counts().await.unwrap(), counts(1, &[("new", 1)]));

    assert!(!store.del(7, "phone", "old").await.unwrap());
    assert!(!store.renew(7, "phone", "old").await.unwrap());
    assert_eq!(store.del_server("old").await.unwrap(), 0);

    assert_eq!(servers(store, &["phone"]).await, [found("new")]);
    assert_eq!(sessions(store, 7).await, [pair("phone", "new")]);
    assert!(store.renew(7, "phone", "new").await.unwrap());
    assert!(store.del(7, "phone", "new").await.unwrap());
    assert_eq!(store.counts().await.unwrap(), SessionCounts::default());
}

/// Another user signs in on the same device. Pushes for the first user must not reach it.
async fn a_key_moves_between_users(store: &impl Sessions) {
    store.put(1, "phone", "a").await.unwrap();
    store.put(2, "phone", "a").await.unwrap();
    assert_eq!(sessions(store, 1).await, []);
    assert_eq!(sessions(store, 2).await, [pair("phone", "a")]);
    assert_eq!(store.counts().await.unwrap(), counts(1, &[("a", 1)]));

    assert!(!store.renew(1, "phone", "a").await.unwrap());
    assert!(!store.del(1, "phone", "a").await.unwrap());
    assert_eq!(sessions(store, 1).await, []);
    assert_eq!(sessions(store, 2).await, [pair("phone", "a")]);
    assert_eq!(servers(store, &["phone"]).await, [found("a")]);
    assert!(store.del(2, "phone", "a").await.unwrap());
}

/// More keys and users than fit into one command, some twice and some unknown.
async fn long_queries_are_answered_in_order(store: &impl Sessions) {
    const USERS: i64 = 300;
    for user in 1..=USERS {
        store.put(user, &format!("key-{user}"), &format!("server-{}", user % 3)).await.unwrap();
    }
    let mut users: Vec<i64> = (1..=USERS + 50).rev().collect();
    users.push(1);
    let keys: Vec<String> = users.iter().map(|user| format!("key-{user}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();

    let answer = store.sessions_of(&users).await.unwrap();
    let places = store.servers_of_keys(&keys).await.unwrap();
    assert_eq!((answer.len(), places.len()), (users.len(), users.len()));
    for (at, &user) in users.iter().enumerate() {
        let server = (user <= USERS).then(|| format!("server-{}", user % 3));
        assert_eq!(places[at], server);
        let sessions = server.map(|server| (keys[at].to_owned(), server));
        assert_eq!(answer[at], (user, sessions.into_iter().collect()));
    }
    assert_eq!(store.sessions_of(&[]).await.unwrap(), []);
    assert_eq!(store.servers_of_keys(&[]).await.unwrap(), []);
}

/// More sessions than a batch.
async fn deleting_a_server_ends_its_sessions(store: &impl Sessions) {
    for user in 1..=300 {
        store.put(user, "", "gone").await.unwrap();
    }
    store.put(1, "other", "stays").await.unwrap();
    store.add_room_counts("gone", Buckets::ALL, &rooms(&[("r", 300)])).await.unwrap();
    store.add_room_counts("stays", Buckets::ALL, &rooms(&[("r", 1)])).await.unwrap();

    assert_eq!(store.del_server("gone").await.unwrap(), 300);
    assert_eq!(store.counts().await.unwrap(), counts(1, &[("stays", 1)]));
    assert_eq!(sessions(store, 1).await, [pair("other", "stays")]);
    assert_eq!(sessions(store, 300).await, []);
    assert_eq!(servers(store, &["2_1", "other"]).await, [None, found("stays")]);
    assert_eq!(store.room_counts().await.unwrap(), rooms(&[("r", 1)]));
    assert_eq!(store.del_server("gone").await.unwrap(), 0);
    assert_eq!(store.put(300, "", "stays").await.unwrap().sequence, 2);
}

async fn room_counts_are_replaced_and_summed(store: &impl Sessions) {
    assert_eq!(store.room_counts().await.unwrap(), rooms(&[]));
    store
        .add_room_counts("a", Buckets::ALL, &rooms(&[("live://1", 3), ("live://2", 1)]))
        .await
        .unwrap();
    store.add_room_counts("b", Buckets::ALL, &rooms(&[("live://1", 4), ("", 9)])).await.unwrap();
    let sums = rooms(&[("live://1", 7), ("live://2", 1), ("", 9)]);
    assert_eq!(store.room_counts().await.unwrap(), sums);

    store.add_room_counts("a", Buckets::ALL, &rooms(&[("live://1", 5)])).await.unwrap();
    assert_eq!(store.room_counts().await.unwrap(), rooms(&[("live://1", 9), ("", 9)]));
    let named = ["live://1", "live://2", ""].map(str::to_owned);
    assert_eq!(store.members_of(&named).await.unwrap(), [9, 0, 9]);
    assert!(store.members_of(&[]).await.unwrap().is_empty());
    store.add_room_counts("b", Buckets::ALL, &rooms(&[])).await.unwrap();
    assert_eq!(store.room_counts().await.unwrap(), rooms(&[("live://1", 5)]));

    // Updates in parts: each replaces only the rooms that it covers.
    store.add_room_counts("c", Buckets(u64::MAX), &rooms(&[("1", 2), ("a", 3)])).await.unwrap();
    store.add_room_counts("c", Buckets(1 << 45), &rooms(&[("1", 4)])).await.unwrap();
    assert_eq!(store.room_counts().await.unwrap(), rooms(&[("live://1", 5), ("1", 4), ("a", 3)]));
    store.add_room_counts("c", Buckets(1 << 13), &rooms(&[])).await.unwrap();
    assert_eq!(store.room_counts().await.unwrap(), rooms(&[("live://1", 5), ("1", 4)]));
    store.add_room_counts("c", Buckets(1 << 45), &rooms(&[])).await.unwrap();
    assert_eq!(store.room_counts().await.unwrap(), rooms(&[("live://1", 5)]));

    let many: HashMap<String, u32> = (0..500).map(|room| (format!("r{room}"), room)).collect();
    store.add_room_counts("a", Buckets::ALL, &many).await.unwrap();
    assert_eq!(store.room_counts().await.unwrap(), many);
    assert_eq!(store.counts().await.unwrap(), SessionCounts::default(), "a room is no session");
}

async fn unusual_texts_are_distinguished(store: &impl Sessions) {
    let keys = ["a b", "a\nb", "a\0b", "ключ", "{tag}", "'; return 1", "*"];
    for (at, key) in keys.iter().enumerate() {
        store.put(i64::MIN + at as i64, key, &format!("server {at}\r\n{key}")).await.unwrap();
    }
    let expected = |(at, key): (usize, &&str)| Some(format!("server {at}\r\n{key}"));
    let expected: Vec<Option<String>> = keys.iter().enumerate().map(expected).collect();
    assert_eq!(servers(store, &keys).await, expected);
    assert_eq!(sessions(store, i64::MIN).await, [pair("a b", "server 0\r\na b")]);
    assert!(store.del(i64::MIN + 1, "a\nb", "server 1\r\na\nb").await.unwrap());
    assert_eq!(store.counts().await.unwrap().users, 6);
}

async fn unrenewed_sessions_expire(kind: &mut impl AgingStore) {
    kind.store().put(7, "silent", "a").await.unwrap();
    kind.store().put(7, "alive", "a").await.unwrap();
    kind.age(HALF).await;
    assert!(kind.store().renew(7, "alive", "a").await.unwrap());
    kind.age(HALF).await;

    let store = kind.store();
    assert_eq!(servers(store, &["silent", "alive"]).await, [None, found("a")]);
    assert_eq!(sessions(store, 7).await, [pair("alive", "a")]);
    assert_eq!(store.counts().await.unwrap(), counts(1, &[("a", 1)]));
    assert!(!store.del(7, "silent", "a").await.unwrap());
    assert_eq!(store.del_server("a").await.unwrap(), 1);
    assert_eq!(store.counts().await.unwrap(), SessionCounts::default());
}

async fn renewing_an_expired_session_makes_it_again(kind: &mut impl AgingStore) {
    kind.store().put(7, "phone", "a").await.unwrap();
    kind.age(LIFETIME).await;
    assert_eq!(servers(kind.store(), &["phone"]).await, [None]);
    assert_eq!(kind.store().counts().await.unwrap(), SessionCounts::default());

    assert!(kind.store().renew(7, "phone", "b").await.unwrap());
    assert_eq!(servers(kind.store(), &["phone"]).await, [found("b")]);
    assert_eq!(sessions(kind.store(), 7).await, [pair("phone", "b")]);
    assert_eq!(kind.store().counts().await.unwrap(), counts(1, &[("b", 1)]));
}

/// Begins and ends a session of user 7, and returns its sequence.
async fn begin_and_end(store: &impl Sessions) -> i32 {
    let placed = store.put(7, "", "a").await.unwrap();
    assert!(store.del(7, &placed.key, "a").await.unwrap());
    placed.sequence
}

async fn the_sequence_is_remembered_for_a_lifetime(kind: &mut impl AgingStore) {
    assert_eq!(begin_and_end(kind.store()).await, 1);
    kind.age(HALF).await;
    assert_eq!(begin_and_end(kind.store()).await, 2);
    kind.age(HALF).await;
    assert_eq!(begin_and_end(kind.store()).await, 3, "remembered since the last session ended");
    kind.age(LIFETIME).await;
    assert_eq!(begin_and_end(kind.store()).await, 1);
}

/// The store has lost its data, and the servers renew their sessions.
async fn renewing_a_lost_session_continues_its_sequence(store: &impl Sessions) {
    for (key, next) in [
        ("7_2", "7_3"),
        ("7_1", "7_4"),
        ("8_9", "7_5"),
        ("7_010", "7_6"),
        ("7_+10", "7_7"),
        ("7_-10", "7_8"),
        ("7_99999999999999999999", "7_9"),
        ("7_4294967297", "7_10"),
        ("phone", "7_11"),
    ] {
        assert!(store.renew(7, key, "a").await.unwrap());
        assert_eq!(store.put(7, "", "a").await.unwrap().key, next, "after {key}");
    }
    assert!(store.renew(0, "0_3", "a").await.unwrap());
    assert_eq!(
        store.put(0, "", "a").await.unwrap().key,
        "0_4",
        "anonymous sessions have sequences as well"
    );
    assert!(store.renew(-8, "-8_3", "a").await.unwrap());
    assert_eq!(store.put(-8, "", "a").await.unwrap().key, "-8_4");
    assert!(store.renew(9, "9_2147483647", "a").await.unwrap());
    assert_eq!(store.put(9, "", "a").await.unwrap().key, "9_1", "1 follows the maximum");
}

async fn a_sequence_whose_key_is_in_use_is_skipped(store: &impl Sessions) {
    store.put(7, "7_2", "a").await.unwrap();
    store.put(7, "7_3", "b").await.unwrap();
    let placed = store.put(7, "", "a").await.unwrap();
    assert_eq!((placed.sequence, placed.key.as_str()), (4, "7_4"));
    let expected = [found("a"), found("b"), found("a")];
    assert_eq!(servers(store, &["7_2", "7_3", "7_4"]).await, expected);
}

async fn room_counts_expire(kind: &mut impl AgingStore) {
    kind.store().add_room_counts("silent", Buckets::ALL, &rooms(&[("r", 1)])).await.unwrap();
    kind.age(Duration::from_secs(3 * 60)).await;
    kind.store().add_room_counts("alive", Buckets::ALL, &rooms(&[("r", 2)])).await.unwrap();
    assert_eq!(kind.store().room_counts().await.unwrap(), rooms(&[("r", 3)]));
    kind.age(Duration::from_secs(2 * 60)).await;
    assert_eq!(kind.store().room_counts().await.unwrap(), rooms(&[("r", 2)]));
}
