//! Servers that answer, but cannot serve: they were demoted, are full, or lost their master.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use comet_router::{Redis, RedisOptions, Sessions, StoreError};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::conformance::LIFETIME;
use crate::redis::{store, until_it_answers};
use crate::server::{PATIENCE, Server, free_port};

/// An address in front of servers, like a balancer or a name that moves: new connections go to the present server,
/// and open connections stay.
struct Front {
    address: SocketAddr,
    target: Arc<AtomicU16>,
}

impl Front {
    async fn start(server: &Server) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(AtomicU16::new(server.port()));
        let present = Arc::clone(&target);
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let port = present.load(Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { address, target }
    }

    fn store(&self) -> Redis {
        let servers = vec![format!("redis://{}", self.address)];
        let (ca, lifetime, timeout) = (None, LIFETIME, PATIENCE);
        Redis::new(&RedisOptions { servers, ca, lifetime, timeout }).unwrap()
    }
}

/// Waits until the server is a synchronized replica, or a master.
async fn until_role(server: &Server, role: &str) {
    until_role_within(PATIENCE, server, role).await;
}

async fn until_role_within(limit: Duration, server: &Server, role: &str) {
    let has_role = async {
        loop {
            // A server that changes its role may end connections.
            let info = async {
                let mut connection = server.try_connection().await?;
                redis::cmd("INFO").arg("replication").query_async(&mut connection).await
            };
            let has_role = info.await.is_ok_and(|info: redis::InfoDict| {
                let link: Option<String> = info.get("master_link_status");
                let is_linked = link.is_none_or(|link| link == "up");
                is_linked && info.get::<String>("role").as_deref() == Some(role)
            });
            if has_role {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(limit, has_role).await.expect("it takes the role");
}

/// The connection stays open. Only the server's answers show that another one is the master.
#[tokio::test]
async fn a_demoted_server_is_left_for_its_successor() {
    let (Some(first), Some(second)) = (Server::start().await, Server::start().await) else {
        return;
    };
    let front = Front::start(&first).await;
    let store = front.store();
    store.put(7, "phone", "a").await.unwrap();
    second.run_command(&format!("REPLICAOF 127.0.0.1 {}", first.port())).await;
    until_role(&second, "slave").await;

    second.run_command("REPLICAOF NO ONE").await;
    first.run_command(&format!("REPLICAOF 127.0.0.1 {}", second.port())).await;
    until_role(&first, "slave").await;
    front.target.store(second.port(), Ordering::Relaxed);

    // No call fails: the server has refused the command, so it is run again elsewhere.
    assert_eq!(store.put(7, "phone", "b").await.unwrap().sequence, 2);
    assert_eq!(store.servers_of_keys(&["phone"]).await.unwrap(), [Some("b".to_owned())]);
}

#[tokio::test]
async fn a_server_that_cannot_serve_is_tried_again_until_it_can() {
    let nobody = free_port();
    let stale = format!("REPLICAOF 127.0.0.1 {nobody}");
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("READONLY", &[&stale], &["REPLICAOF NO ONE"]),
        (
            "MASTERDOWN",
            &["CONFIG SET replica-serve-stale-data no", &stale],
            &["REPLICAOF NO ONE", "CONFIG SET replica-serve-stale-data yes"],
        ),
        ("OOM", &["CONFIG SET maxmemory 1"], &["CONFIG SET maxmemory 0"]),
        (
            "NOREPLICAS",
            &["CONFIG SET min-replicas-to-write 1"],
            &["CONFIG SET min-replicas-to-write 0"],
        ),
    ];
    let Some(server) = Server::start().await else { return };
    let store = store(&[&server], PATIENCE);
    until_it_answers(&store).await;
    for (code, broken, mended) in cases {
        for command in *broken {
            server.run_command(command).await;
        }
        let failures = store.servers()[0].failures;
        let error = store.put(7, "phone", "a").await.unwrap_err();
        assert!(matches!(error, StoreError::Failed { .. }), "{error:?}");
        let sentence = error.to_string().to_uppercase();
        assert!(sentence.contains(code), "{sentence}");
        let state = &store.servers()[0];
        assert_eq!((state.is_up, state.failures), (false, failures + 1), "{code}");
        for command in *mended {
            server.run_command(command).await;
        }
        until_it_answers(&store).await;
        assert!(store.servers()[0].is_up);
    }
}

#[tokio::test]
async fn sentinels_name_the_master() {
    let (Some(first), Some(second)) = (Server::start().await, Server::start().await) else {
        return;
    };
    second.run_command(&format!("REPLICAOF 127.0.0.1 {}", first.port())).await;
    until_role(&second, "slave").await;
    let monitor = format!("sentinel monitor main 127.0.0.1 {} 1\n", first.port());
    let sentinel = Server::start_with(|directory| {
        let file = directory.join("sentinel.conf");
        std::fs::write(&file, &monitor).unwrap();
        vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()]
    });
    let Some(sentinel) = sentinel.await else { return };
    // The first sentinel is away.
    let url = format!("redis+sentinel://127.0.0.1:{},{}/main", free_port(), sentinel.address());
    let (ca, lifetime) = (None, LIFETIME);
    let store =
        Redis::new(&RedisOptions { servers: vec![url], ca, lifetime, timeout: PATIENCE }).unwrap();
    assert_eq!(store.servers()[0].name, "main/0");
    store.put(7, "phone", "a").await.unwrap();
    assert_eq!(first.keys("key_*").await, ["key_phone"]);

    let failed_over = async {
        loop {
            let mut command = redis::cmd("SENTINEL");
            command.arg("FAILOVER").arg("main");
            let begun = command.exec_async(&mut sentinel.connection().await).await;
            match begun {
                Ok(()) => return,
                // The sentinel has not found the replica yet.
                Err(error) => assert!(error.to_string().contains("NOGOODSLAVE"), "{error}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(2 * PATIENCE, failed_over).await.expect("the sentinel finds the replica");
    until_role(&second, "master").await;
    // The sentinel and the servers wait for timers of their own, of up to ten seconds each.
    until_role_within(3 * PATIENCE, &first, "slave").await;
    until_it_answers(&store).await;
    store.put(8, "tablet", "a").await.unwrap();
    assert!(second.keys("key_*").await.contains(&"key_tablet".to_owned()));
}
