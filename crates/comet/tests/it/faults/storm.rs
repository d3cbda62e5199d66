//! Clients and calls in numbers: the end by a signal amid them, and what they cost a live client.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use comet::blocking_client::PushClient;
use comet_client::{Options, Transport, op};
use rustix::process::Signal;

use crate::logic_tokens::{SECRET, SecretFile, token};
use crate::peer::Peer;
use crate::process::Server;
use crate::support::{BOTH, Metrics, until};

const STORMERS: usize = 4;

#[test]
fn a_signal_in_a_storm_of_connects_ends_the_server() {
    let server = Server::start(&["server.drain_timeout=\"1m\""]);
    let (entered, told) = (AtomicU64::new(0), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let addresses = [server.tcp.to_string(), server.websocket.to_string()];
    thread::scope(|scope| {
        for stormer in 0..STORMERS {
            let (transport, address) = (BOTH[stormer % 2], &addresses[stormer % 2]);
            let (entered, told, is_over) = (&entered, &told, &is_over);
            scope.spawn(move || {
                let options = match transport {
                    Transport::Tcp => Options::tcp(address, "1"),
                    Transport::WebSocket => Options::websocket(address, "/sub", "1"),
                };
                let mut stays = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    // Some say nothing.
                    drop(TcpStream::connect(address));
                    match options.connect() {
                        Ok(client) if stays.len() < 200 => stays.push(client),
                        Ok(client) => drop(client),
                        // The listeners are shut, or it is told to go.
                        Err(_) => thread::sleep(Duration::from_millis(1)),
                    }
                    entered.fetch_add(1, Ordering::Relaxed);
                }
                for mut client in stays {
                    // Nothing was pushed: what comes is the close notice, or the end of a cut connection.
                    let error = client.receive().expect_err("the server has ended");
                    told.fetch_add(
                        u64::from(error.to_string().contains("draining")),
                        Ordering::Relaxed,
                    );
                }
            });
        }
        until("the storm", || entered.load(Ordering::Relaxed) > 200);
        server.signal(Signal::TERM);
        let (code, logged) = server.end();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(code, Some(0), "{logged:?}");
        assert!(logged.last().unwrap().ends_with("2 of 2 cores drained in time"), "{logged:?}");
        assert!(!logged.iter().any(|line| line.contains(" ERROR ")), "{logged:?}");
    });
    assert!(told.load(Ordering::Relaxed) > 0);
}

/// They arrive at once, because the server stands still meanwhile.
#[test]
fn tokens_that_arrive_at_once_are_all_answered_beside_a_live_client() {
    const CLIENTS: u64 = 2_000;
    let secret = SecretFile::new("storm", SECRET);
    let sets = secret.sets();
    let server = Server::start(&sets.each_ref().map(String::as_str));
    let token = token(SECRET, 3_600);
    let mut live = server.live(Transport::Tcp, &token);
    let connect = |_| Peer::connect(server.tcp, Transport::Tcp);
    let mut peers: Vec<_> = (0..CLIENTS).map(connect).collect();
    let count = |sample| Metrics::read(server.stat).value(sample);
    until("all of them to be accepted", || count("comet_connections") == CLIENTS + 1);
    server.pause(true);
    peers.iter_mut().for_each(|peer| peer.send(op::AUTH, 1, token.as_bytes()));
    live.send(op::HEARTBEAT, 9, b"");
    server.pause(false);
    assert_eq!(live.recv().operation, op::HEARTBEAT_REPLY);
    for peer in &mut peers {
        assert_eq!(peer.recv().operation, op::AUTH_REPLY);
    }
    assert_eq!(count("comet_live"), CLIENTS + 1);
}

#[test]
fn calls_with_many_keys_are_answered_beside_a_live_client() {
    const CALLERS: usize = 8;
    const CALLS: usize = 8;
    const KEYS: usize = 10_000;
    let server = Server::start(&["push.timeout=\"1m\""]);
    let mut live = server.live(Transport::Tcp, "1");
    let keys: Vec<String> = (0..KEYS).map(|number| format!("nobody-{number}")).collect();
    thread::scope(|scope| {
        let push = || {
            let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
            for _ in 0..CALLS {
                let ledger =
                    caller.push_keys(keys.clone(), 5, b"").unwrap().expect("comet sends one");
                assert_eq!((ledger.matched, ledger.absent), (0, KEYS as u64));
            }
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(push)).collect();
        let mut heartbeats = 0;
        while !callers.iter().all(ScopedJoinHandle::is_finished) {
            assert_eq!(live.ask(op::HEARTBEAT, 9, b"").operation, op::HEARTBEAT_REPLY);
            heartbeats += 1;
        }
        assert!(heartbeats > 0);
    });
}
