//! The store in Redis: the common suite against real servers, the layout, the ring, and unavailable
//! servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use comet_router::{Buckets, Redis, RedisOptions, Sessions, Store, StoreError};
use redis::aio::MultiplexedConnection;
use redis::{AsyncTypedCommands, cmd};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::conformance::{AgingStore, LIFETIME, check};
use crate::server::{PATIENCE, Server};

pub(crate) fn store(servers: &[&Server], timeout: Duration) -> Redis {
    let servers = servers.iter().map(|server| server.url()).collect();
    Redis::new(&RedisOptions { servers, ca: None, lifetime: LIFETIME, timeout }).unwrap()
}

struct RealServers {
    store: Store,
    servers: Vec<Server>,
}

impl RealServers {
    async fn start(count: usize) -> Option<Self> {
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(Server::start().await?);
        }
        let store = store(&servers.iter().collect::<Vec<_>>(), PATIENCE);
        Some(Self { store: Store::Redis(store), servers })
    }
}

impl AgingStore for RealServers {
    type Store = Store;

    fn store(&self) -> &Store {
        &self.store
    }

    /// Shortens the remaining lifetime of every key and every index entry.
    async fn age(&mut self, by: Duration) {
        let script = redis::Script::new(
            r"
            local by = tonumber(ARGV[1])
            for _, key in ipairs(redis.call('KEYS', '*')) do
                if redis.call('TYPE', key).ok == 'zset' then
                    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
                        redis.call('ZINCRBY', key, -by, member)
                    end
                end
                local left = redis.call('PTTL', key)
                if left <= by then
                    redis.call('DEL', key)
                else
                    redis.call('PEXPIRE', key, left - by)
                end
            end
            ",
        );
        for server in &self.servers {
            let mut connection = server.connection().await;
            let mut script = script.prepare_invoke();
            script.arg(by.as_millis() as u64);
            script.invoke_async::<()>(&mut connection).await.unwrap();
        }
    }

    async fn clear(&mut self) {
        for server in &self.servers {
            cmd("FLUSHALL").exec_async(&mut server.connection().await).await.unwrap();
        }
    }
}

#[tokio::test]
async fn redis_conforms() {
    let Some(real) = RealServers::start(1).await else { return };
    check(real).await;
}

#[tokio::test]
async fn three_redis_servers_conform_as_well() {
    let Some(real) = RealServers::start(3).await else { return };
    check(real).await;
}

async fn ttl(connection: &mut MultiplexedConnection, key: &str) -> Duration {
    let left: i64 = cmd("PTTL").arg(key).query_async(connection).await.unwrap();
    Duration::from_millis(u64::try_from(left).unwrap_or_else(|_| panic!("{key} never expires")))
}

#[tokio::test]
async fn the_layout_is_that_of_goim() {
    let Some(server) = Server::start().await else { return };
    let store = store(&[&server], PATIENCE);
    let mut redis = server.connection().await;

    store.put(7, "phone", "comet-1").await.unwrap();
    store
        .add_room_counts("comet-1", Buckets::ALL, &HashMap::from([("live://1".to_owned(), 3)]))
        .await
        .unwrap();
    assert_eq!(redis.hget("mid_7", "phone").await.unwrap().as_deref(), Some("comet-1"));
    assert_eq!(redis.get("key_phone").await.unwrap().as_deref(), Some("comet-1"));
    let online = redis.hget("ol_comet-1", "19").await.unwrap().unwrap();
    let online: serde_json::Value = serde_json::from_str(&online).unwrap();
    assert_eq!(online["server"], "comet-1");
    assert_eq!(online["room_count"], serde_json::json!({"live://1": 3}));
    assert!(online["updated"].as_i64().unwrap() > 1_700_000_000);
    assert_eq!(redis.get("seq_7").await.unwrap().as_deref(), Some("1"));

    for key in redis.keys("*").await.unwrap() {
        let most = if key.starts_with("ol_") { Duration::from_secs(5 * 60) } else { LIFETIME };
        assert!(ttl(&mut redis, &key).await <= most, "{key}");
    }
    assert!(store.del(7, "phone", "comet-1").await.unwrap());
    assert_eq!(store.del_server("comet-1").await.unwrap(), 0);
    let mut left = redis.keys("*").await.unwrap();
    left.sort();
    assert_eq!(left, ["comet_servers", "seq_7"]);
}

/// goim's logic writes only these keys.
#[tokio::test]
async fn sessions_that_goim_wrote_are_found() {
    let Some(server) = Server::start().await else { return };
    let store = store(&[&server], PATIENCE);
    let mut redis = server.connection().await;
    redis.hset("mid_7", "phone", "comet-1").await.unwrap();
    redis.set("key_phone", "comet-1").await.unwrap();

    assert_eq!(store.servers_of_keys(&["phone"]).await.unwrap(), [Some("comet-1".to_owned())]);
    let sessions = vec![("phone".to_owned(), "comet-1".to_owned())];
    assert_eq!(store.sessions_of(&[7]).await.unwrap(), [(7, sessions)]);
    assert!(!store.renew(7, "phone", "comet-2").await.unwrap());
    assert!(store.renew(7, "phone", "comet-1").await.unwrap());
    assert!(ttl(&mut redis, "key_phone").await <= LIFETIME);
    assert!(store.del(7, "phone", "comet-1").await.unwrap());
    assert_eq!(store.sessions_of(&[7]).await.unwrap(), [(7, Vec::new())]);
}

#[tokio::test]
async fn users_are_spread_over_both_nodes() {
    let (Some(one), Some(other)) = (Server::start().await, Server::start().await) else { return };
    let store = store(&[&one, &other], PATIENCE);
    for user in 1..=200 {
        store.put(user, "", "s").await.unwrap();
    }
    let mut shares = Vec::new();
    for server in [&one, &other] {
        shares.push(server.connection().await.keys("mid_*").await.unwrap().len());
    }
    assert_eq!(shares.iter().sum::<usize>(), 200);
    assert!(shares.iter().all(|share| *share >= 40), "{shares:?}");
    assert_eq!(store.counts().await.unwrap().users, 200);
}

/// Overlapping calls from two logic services: in the end only the owner of a key has it listed.
#[tokio::test]
async fn a_former_owner_does_not_stay_listed_after_a_race() {
    const USERS: i64 = 3;
    let (Some(one), Some(other)) = (Server::start().await, Server::start().await) else { return };
    let services = [0, 1].map(|_| Arc::new(store(&[&one, &other], PATIENCE)));
    for round in 0..30 {
        let mut calls = JoinSet::new();
        for call in 0..12_i64 {
            let store = Arc::clone(&services[call as usize % 2]);
            let server = if (call + round) % 4 < 2 { "a" } else { "b" };
            let user = 1 + (call * 7 + round) % USERS;
            calls.spawn(async move {
                match (call + round) % 5 {
                    0..3 => drop(store.put(user, "phone", server).await.unwrap()),
                    3 => drop(store.renew(user, "phone", server).await.unwrap()),
                    _ => drop(store.del(user, "phone", server).await.unwrap()),
                }
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
        let owner = services[0].servers_of_keys(&["phone"]).await.unwrap().remove(0);
        let mut holders = Vec::new();
        for (user, sessions) in services[0].sessions_of(&[1, 2, 3]).await.unwrap() {
            for (_, server) in sessions {
                assert_eq!(Some(&server), owner.as_ref(), "round {round}: user {user}");
                assert!(services[0].renew(user, "phone", &server).await.unwrap());
                holders.push(user);
            }
        }
        assert!(holders.len() <= 1, "round {round}: {holders:?}");
    }
}

/// Calls `store` until it answers.
pub(crate) async fn until_it_answers(store: &Redis) {
    let answers = async {
        while let Err(error) = store.put(7, "phone", "a").await {
            assert!(matches!(error, StoreError::Failed { .. } | StoreError::Deadline { .. }));
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, answers).await.expect("it answers again");
}

#[tokio::test]
async fn a_killed_server_is_an_error_until_it_is_restarted() {
    let Some(mut server) = Server::start().await else { return };
    let store = store(&[&server], PATIENCE / 2);
    store.put(7, "phone", "a").await.unwrap();
    server.kill();
    for _ in 0..3 {
        let call = timeout(PATIENCE, store.servers_of_keys(&["phone"]));
        let sentence = call.await.expect("an answer by the deadline").unwrap_err().to_string();
        let begin = format!("the session store at {}/0 failed: ", server.address());
        assert!(sentence.starts_with(&begin), "{sentence}");
        assert!(sentence.len() > begin.len(), "{sentence}");
    }
    server.restart().await;
    until_it_answers(&store).await;
    let found = store.servers_of_keys(&["phone"]).await.unwrap();
    assert_eq!(found, [Some("a".to_owned())]);
}

/// The next call notices the lost connection and repeats its command.
#[tokio::test]
async fn no_call_fails_by_a_restart_between_calls() {
    let Some(mut server) = Server::start().await else { return };
    let store = store(&[&server], PATIENCE);
    store.put(7, "phone", "a").await.unwrap();
    server.kill();
    server.restart().await;
    assert_eq!(store.put(7, "phone", "a").await.unwrap().sequence, 1);
}

#[tokio::test]
async fn a_stopped_server_is_an_error_at_the_deadline() {
    const DEADLINE: Duration = Duration::from_millis(300);
    let Some(server) = Server::start().await else { return };
    let store = store(&[&server], DEADLINE);
    until_it_answers(&store).await;
    server.freeze();
    let answer = timeout(PATIENCE, store.sessions_of(&[7])).await.expect("an end by the deadline");
    server.thaw();
    let node = format!("{}/0", server.address());
    let sentence = format!("the session store at {node} did not answer within 300ms");
    let error = answer.unwrap_err();
    assert_eq!(error, StoreError::Deadline { node, timeout: DEADLINE });
    assert_eq!(error.to_string(), sentence);
    until_it_answers(&store).await;
}

#[tokio::test]
async fn a_key_with_another_type_of_value_is_an_error() {
    let Some(server) = Server::start().await else { return };
    let store = store(&[&server], PATIENCE);
    let mut redis = server.connection().await;
    redis.set("mid_7", "no hash").await.unwrap();
    let sentence = store.sessions_of(&[7]).await.unwrap_err().to_string();
    assert!(sentence.contains("WRONGTYPE"), "{sentence}");

    store.add_room_counts("s", Buckets::ALL, &HashMap::new()).await.unwrap();
    redis.hset("ol_s", "0", "no JSON").await.unwrap();
    let sentence = store.room_counts().await.unwrap_err().to_string();
    assert!(sentence.starts_with("ol_s in the session store at "), "{sentence}");
}

#[test]
fn errors_of_bad_addresses_contain_no_password() {
    let check = |servers: &[&str], sentence: &str| {
        let servers = servers.iter().map(|&server| server.to_owned()).collect();
        let options = RedisOptions { servers, ca: None, lifetime: LIFETIME, timeout: PATIENCE };
        assert_eq!(Redis::new(&options).unwrap_err().to_string(), sentence);
    };
    check(&[], "a session store in Redis needs an address");
    check(
        &["redis://:secret@a:1/2", "redis://u:other@a:1/2"],
        "the session store a:1/2 is listed twice",
    );
    let options = RedisOptions {
        servers: vec!["http://:secret@a".to_owned()],
        ca: None,
        lifetime: LIFETIME,
        timeout: PATIENCE,
    };
    let sentence = Redis::new(&options).unwrap_err().to_string();
    assert!(sentence.starts_with("an address of a session store is no URL: "), "{sentence}");
    assert!(!sentence.contains("secret"), "{sentence}");
}
