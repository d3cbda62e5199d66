//! What every kind of store does. Each kind's module runs [`check`] on a store of [`LIFETIME`].

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use comet_router::{Counts, Sessions};

/// Of the sessions; so long that none expires unless the suite says that time passes.
pub(crate) const LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);
const HALF: Duration = Duration::from_secs(60 * 60);

/// A store, and a way to make time pass for it.
pub(crate) trait Aged {
    type Store: Sessions;

    fn store(&self) -> &Self::Store;

    /// Makes everything in the store older.
    async fn age(&mut self, by: Duration);

    /// Empties the store.
    async fn clear(&mut self);
}

/// Runs the suite.
pub(crate) async fn check(mut kind: impl Aged) {
    sessions_are_numbered_and_found(kind.store()).await;
    kind.clear().await;
    anonymous_sessions_have_no_user(kind.store()).await;
    kind.clear().await;
    a_late_farewell_changes_nothing(kind.store()).await;
    kind.clear().await;
    a_key_moves_between_users(kind.store()).await;
    kind.clear().await;
    many_are_answered_in_order(kind.store()).await;
    kind.clear().await;
    a_server_ends_with_its_sessions(kind.store()).await;
    kind.clear().await;
    room_counts_are_replaced_and_summed(kind.store()).await;
    kind.clear().await;
    strange_texts_are_kept_apart(kind.store()).await;
    kind.clear().await;
    unrenewed_sessions_expire(&mut kind).await;
    kind.clear().await;
    an_expired_session_is_made_anew(&mut kind).await;
    kind.clear().await;
    the_number_is_remembered_for_a_lifetime(&mut kind).await;
    kind.clear().await;
    a_forgotten_session_keeps_its_key(kind.store()).await;
    kind.clear().await;
    a_key_that_a_token_named_is_skipped(kind.store()).await;
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

fn counts(users: u64, by_server: &[(&str, u64)]) -> Counts {
    let by_server: BTreeMap<String, u64> =
        by_server.iter().map(|(server, sessions)| ((*server).to_owned(), *sessions)).collect();
    Counts { users, sessions: by_server.values().sum(), by_server }
}

fn rooms(counts: &[(&str, u32)]) -> HashMap<String, u32> {
    counts.iter().map(|(room, count)| ((*room).to_owned(), *count)).collect()
}

async fn sessions_are_numbered_and_found(store: &impl Sessions) {
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
    assert!(!store.del(7, "phone", "a").await.unwrap(), "it is gone already");
    assert_eq!(sessions(store, 7).await, [pair("7_2", "b")]);
    assert!(store.del(7, "7_2", "b").await.unwrap());
    assert_eq!(sessions(store, 7).await, []);
    assert_eq!(store.counts().await.unwrap(), counts(1, &[("a", 1)]));
    assert_eq!(store.put(7, "", "a").await.unwrap().sequence, 3, "the number counts on");
}

async fn anonymous_sessions_have_no_user(store: &impl Sessions) {
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

async fn a_late_farewell_changes_nothing(store: &impl Sessions) {
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
    assert_eq!(store.counts().await.unwrap(), Counts::default());
}

/// Somebody else signs in on the same device: what is for the first user must not reach the second.
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

/// More than fit into one command, some of them twice, some unknown.
async fn many_are_answered_in_order(store: &impl Sessions) {
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
async fn a_server_ends_with_its_sessions(store: &impl Sessions) {
    for user in 1..=300 {
        store.put(user, "", "gone").await.unwrap();
    }
    store.put(1, "other", "stays").await.unwrap();
    store.add_room_counts("gone", &rooms(&[("r", 300)])).await.unwrap();
    store.add_room_counts("stays", &rooms(&[("r", 1)])).await.unwrap();

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
    store.add_room_counts("a", &rooms(&[("live://1", 3), ("live://2", 1)])).await.unwrap();
    store.add_room_counts("b", &rooms(&[("live://1", 4), ("", 9)])).await.unwrap();
    let sums = rooms(&[("live://1", 7), ("live://2", 1), ("", 9)]);
    assert_eq!(store.room_counts().await.unwrap(), sums);

    store.add_room_counts("a", &rooms(&[("live://1", 5)])).await.unwrap();
    assert_eq!(store.room_counts().await.unwrap(), rooms(&[("live://1", 9), ("", 9)]));
    store.add_room_counts("b", &rooms(&[])).await.unwrap();
    assert_eq!(store.room_counts().await.unwrap(), rooms(&[("live://1", 5)]));

    let many: HashMap<String, u32> = (0..500).map(|room| (format!("r{room}"), room)).collect();
    store.add_room_counts("a", &many).await.unwrap();
    assert_eq!(store.room_counts().await.unwrap(), many);
    assert_eq!(store.counts().await.unwrap(), Counts::default(), "a room is no session");
}

async fn strange_texts_are_kept_apart(store: &impl Sessions) {
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

async fn unrenewed_sessions_expire(kind: &mut impl Aged) {
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
    assert_eq!(store.counts().await.unwrap(), Counts::default());
}

async fn an_expired_session_is_made_anew(kind: &mut impl Aged) {
    kind.store().put(7, "phone", "a").await.unwrap();
    kind.age(LIFETIME).await;
    assert_eq!(servers(kind.store(), &["phone"]).await, [None]);
    assert_eq!(kind.store().counts().await.unwrap(), Counts::default());

    assert!(kind.store().renew(7, "phone", "b").await.unwrap());
    assert_eq!(servers(kind.store(), &["phone"]).await, [found("b")]);
    assert_eq!(sessions(kind.store(), 7).await, [pair("phone", "b")]);
    assert_eq!(kind.store().counts().await.unwrap(), counts(1, &[("b", 1)]));
}

/// The number of a session of user 7 that ends at once.
async fn come_and_go(store: &impl Sessions) -> i32 {
    let placed = store.put(7, "", "a").await.unwrap();
    assert!(store.del(7, &placed.key, "a").await.unwrap());
    placed.sequence
}

async fn the_number_is_remembered_for_a_lifetime(kind: &mut impl Aged) {
    assert_eq!(come_and_go(kind.store()).await, 1);
    kind.age(HALF).await;
    assert_eq!(come_and_go(kind.store()).await, 2);
    kind.age(HALF).await;
    assert_eq!(come_and_go(kind.store()).await, 3, "counted from when the last session left");
    kind.age(LIFETIME).await;
    assert_eq!(come_and_go(kind.store()).await, 1);
}

/// The store lost what it knew, and its servers tell it again.
async fn a_forgotten_session_keeps_its_key(store: &impl Sessions) {
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
    assert_eq!(store.put(0, "", "a").await.unwrap().key, "0_4", "nobody's are numbered, too");
    assert!(store.renew(-8, "-8_3", "a").await.unwrap());
    assert_eq!(store.put(-8, "", "a").await.unwrap().key, "-8_4");
    assert!(store.renew(9, "9_2147483647", "a").await.unwrap());
    assert_eq!(store.put(9, "", "a").await.unwrap().key, "9_1", "after the last comes the first");
}

async fn a_key_that_a_token_named_is_skipped(store: &impl Sessions) {
    store.put(7, "7_2", "a").await.unwrap();
    store.put(7, "7_3", "b").await.unwrap();
    let placed = store.put(7, "", "a").await.unwrap();
    assert_eq!((placed.sequence, placed.key.as_str()), (4, "7_4"));
    let expected = [found("a"), found("b"), found("a")];
    assert_eq!(servers(store, &["7_2", "7_3", "7_4"]).await, expected);
}

async fn room_counts_expire(kind: &mut impl Aged) {
    kind.store().add_room_counts("silent", &rooms(&[("r", 1)])).await.unwrap();
    kind.age(Duration::from_secs(3 * 60)).await;
    kind.store().add_room_counts("alive", &rooms(&[("r", 2)])).await.unwrap();
    assert_eq!(kind.store().room_counts().await.unwrap(), rooms(&[("r", 3)]));
    kind.age(Duration::from_secs(2 * 60)).await;
    assert_eq!(kind.store().room_counts().await.unwrap(), rooms(&[("r", 2)]));
}
