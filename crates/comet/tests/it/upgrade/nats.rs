//! One of two hosts with NATS is upgraded, and the other host is not affected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use comet::blocking_client::{Ledger, PushClient};
use rustix::process::Signal;

use crate::nats_server::NatsServer;
use crate::peer::Peer;
use crate::process::{Server, comet, with_sets};
use crate::support::{
    BOTH, Metrics, Permit, SetOnDrop, To, push, try_push, two_cores, until, until_more,
    until_reaches,
};
use crate::two_hosts::until_others_had_their_time;

use super::{Line, token};

pub(super) const ROOM: &str = "live://1";
/// The body of the last push.
pub(super) const END: &str = "end";
/// The number of clients of each host.
pub(super) const CLIENTS: usize = 2;
const UPGRADES: usize = 3;

pub(super) struct Hosts {
    /// The host that is upgraded.
    pub(super) line: Line,
    pub(super) other: Server,
    pub(super) nats: NatsServer,
}

impl Hosts {
    fn start(sets: &[&str]) -> Option<Self> {
        Self::start_with(&[], sets, &[])
    }

    /// Starts with arguments for `nats-server`, settings for both hosts, and settings for the one that is upgraded.
    pub(super) fn start_with(arguments: &[&str], sets: &[&str], upgraded: &[&str]) -> Option<Self> {
        let permit = Permit::wait();
        let nats = NatsServer::start(arguments)?;
        let servers = format!("nats.servers=[\"nats://{}\"]", nats.address());
        let launch = |id: &str, own: &[&str], permit: Option<Permit>| {
            let id = format!("server.id={id:?}");
            let sets = [&[&*servers, &*id, "push.timeout=\"10s\""], sets, own].concat();
            let cores = two_cores();
            let arguments = [&["--cores", &*cores], &*with_sets(&sets)].concat();
            Server::launch(comet(&arguments), permit)
        };
        let line = Line::of(launch("a", upgraded, Some(permit)));
        let hosts = Self { line, other: launch("b", &[], None), nats };
        hosts.until_joined();
        for host in [&hosts.line.server, &hosts.other] {
            until_others_had_their_time(host);
        }
        Some(hosts)
    }

    pub(super) fn until_joined(&self) {
        for stat in [self.line.server.stat, self.other.stat] {
            until("the hosts to know each other", || {
                let metrics = Metrics::read(stat);
                ["connected", "hosts"]
                    .iter()
                    .all(|name| metrics.value(&format!("comet_cluster_{name}")) == 1)
            });
        }
    }

    /// Waits until a push from each host reaches all clients, so that NATS has the subscriptions of both hosts.
    fn until_subscribed(&self, grpc: &[String]) {
        let mut number = 0;
        for grpc in grpc {
            let caller = PushClient::connect(grpc).unwrap();
            until("a push to reach all clients", || {
                number += 1;
                let body = format!("ready {number}");
                try_push(&caller, To::Room(ROOM), 5, body.as_bytes())
                    .is_ok_and(|ledger| ledger.queued == 2 * CLIENTS as u64)
            });
        }
    }

    pub(super) fn clients(&self) -> Vec<Peer> {
        let hosts = [&self.line.server, &self.other];
        let users = (0..2 * CLIENTS as u32).zip(BOTH.iter().cycle());
        users
            .map(|(user, transport)| hosts[user as usize / CLIENTS].live(*transport, &token(user)))
            .collect()
    }
}

/// All bodies up to the last one.
pub(super) fn read(mut peer: Peer) -> JoinHandle<(Peer, Vec<String>)> {
    thread::spawn(move || {
        let mut bodies = Vec::new();
        loop {
            let body = String::from_utf8(peer.recv().body).expect("no close notice");
            if body == END {
                return (peer, bodies);
            }
            bodies.push(body);
        }
    })
}

/// Pushes at a host with `pause` between pushes. Returns the ledgers. `None`: the caller does not know the result of the push.
pub(super) fn call(
    host: &'static str,
    grpc: String,
    pause: Duration,
    (is_over, made): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> JoinHandle<Vec<Option<Ledger>>> {
    thread::spawn(move || {
        let mut ledgers = Vec::new();
        while !is_over.load(SeqCst) {
            // The new process does not have the connections of callers, so a caller connects again.
            let Ok(caller) = PushClient::connect(&grpc) else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            while !is_over.load(SeqCst) {
                let body = format!("{host} {}", ledgers.len());
                let pushed = try_push(&caller, To::Room(ROOM), 5, body.as_bytes()).ok();
                ledgers.push(pushed);
                made.fetch_add(1, SeqCst);
                thread::sleep(pause);
                if ledgers.last() == Some(&None) {
                    break;
                }
            }
        }
        ledgers
    })
}

#[test]
fn pushes_between_hosts_arrive_once_while_one_is_upgraded() {
    let Some(mut hosts) = Hosts::start(&[]) else { return };
    let readers: Vec<_> = hosts.clients().into_iter().map(read).collect();
    let (is_over, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let _over = SetOnDrop(Arc::clone(&is_over));
    let grpc = [hosts.line.server.grpc, hosts.other.grpc].map(|grpc| grpc.to_string());
    hosts.until_subscribed(&grpc);
    let callers = ["a", "b"].into_iter().zip(grpc).map(|(host, grpc)| {
        call(host, grpc, Duration::ZERO, (Arc::clone(&is_over), Arc::clone(&made)))
    });
    let callers: Vec<_> = callers.collect();
    // Another program expects no reply. It pushes as fast as the callers, as a flood would leave them no CPU.
    let program = {
        let (mut program, is_over) = (hosts.nats.program(), Arc::clone(&is_over));
        let made = Arc::clone(&made);
        thread::spawn(move || {
            let mut number = 0;
            while !is_over.load(SeqCst) {
                if number > made.load(SeqCst) {
                    thread::sleep(Duration::from_micros(200));
                    continue;
                }
                program.publish(&format!("comet.room.{ROOM}"), &[], &format!("program {number}"));
                number += 1;
            }
            number
        })
    };
    for _ in 0..UPGRADES {
        until_more("pushes", &made, 40);
        hosts.line.upgrade();
        hosts.until_joined();
    }
    until_more("pushes", &made, 40);
    is_over.store(true, SeqCst);
    let ledgers: Vec<Vec<Option<Ledger>>> =
        callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    let published: u64 = program.join().unwrap();
    let caller = PushClient::connect(&hosts.other.grpc.to_string()).unwrap();
    let all = 2 * CLIENTS as u64;
    until_reaches(all, &caller, To::Room(ROOM), END.as_bytes());
    let mut delivered: BTreeMap<String, u64> = BTreeMap::new();
    let mut peers = Vec::new();
    for (client, reader) in readers.into_iter().enumerate() {
        let (peer, bodies) = reader.join().unwrap();
        peers.push(peer);
        let different: BTreeSet<&String> = bodies.iter().collect();
        assert_eq!(different.len(), bodies.len(), "client {client} has a push twice");
        for source in ["a", "b"] {
            let numbers: Vec<u64> = bodies
                .iter()
                .filter_map(|body| body.strip_prefix(source)?.trim_start().parse().ok())
                .collect();
            assert!(numbers.is_sorted(), "client {client} has pushes of {source} out of order");
        }
        bodies.into_iter().for_each(|body| *delivered.entry(body).or_default() += 1);
    }
    let mut named = 0;
    for (host, ledgers) in ["a", "b"].iter().zip(&ledgers) {
        for (number, ledger) in ledgers.iter().enumerate() {
            let Some(ledger) = ledger else { continue };
            let came = delivered.get(&format!("{host} {number}")).copied().unwrap_or(0);
            let is_named = !ledger.unanswered.is_empty();
            named += u64::from(is_named);
            assert!(came >= ledger.queued, "{host} {number}: {came} of {ledger:?}");
            assert!(is_named || came == all, "{host} {number}: {came}, {ledger:?}");
        }
    }
    let unknown = ledgers.iter().flatten().filter(|ledger| ledger.is_none()).count();
    let pushes: usize = ledgers.iter().map(Vec::len).sum();
    eprintln!("{pushes} pushes, {named} name a host, {unknown} unknown; {published} published");
    assert!(unknown <= UPGRADES, "{unknown} of {pushes} pushes have an unknown result");
    let came = |number: u64| delivered.get(&format!("program {number}")).copied().unwrap_or(0);
    let came = (0..published).map(|number| (number, came(number)));
    let missing: Vec<(u64, u64)> = came.filter(|(_, came)| *came != all).collect();
    assert!(
        missing.is_empty(),
        "missing pushes of the program, and the number of clients that got them: {missing:?}"
    );
    // The clients are still connected.
    push(&caller, To::Room(ROOM), 5, b"still there");
    for peer in &mut peers {
        while peer.recv().body != b"still there" {}
    }
}

/// An upgrade does not change the age of a session: a younger one on another host replaces it, and it replaces no younger one.
#[test]
fn a_key_has_one_owner_on_all_hosts_after_an_upgrade() {
    let Some(mut hosts) = Hosts::start(&["nats.sessions=true"]) else { return };
    let mut older = hosts.line.server.live(BOTH[0], &token(1));
    let mut stays = hosts.line.server.live(BOTH[0], &token(2));
    hosts.line.upgrade();
    hosts.until_joined();
    let mut younger = hosts.other.live(BOTH[1], &token(1));
    assert!(older.close_notice().reason.contains("replaced"));
    hosts.line.upgrade();
    hosts.until_joined();
    let caller = PushClient::connect(&hosts.other.grpc.to_string()).unwrap();
    for (key, peer) in [("k1", &mut younger), ("k2", &mut stays)] {
        push(&caller, To::Keys(&[key]), 5, b"to the owner");
        assert_eq!(peer.recv().body, b"to the owner");
    }
    hosts.line.signal(Signal::TERM);
    stays.close_notice();
}

/// A stopped NATS cannot give the new process the pushes of the former one. The second upgrade waits until it has given up.
#[test]
fn a_host_can_be_upgraded_twice_while_nats_is_stopped() {
    let Some(mut hosts) = Hosts::start(&[]) else { return };
    let mut client = hosts.line.server.live(BOTH[0], &token(1));
    hosts.nats.pause(true);
    hosts.line.upgrade();
    hosts.line.upgrade();
    assert_eq!(hosts.line.push(To::User(1), b"alone").queued, 1);
    hosts.nats.pause(false);
    assert_eq!(client.recv().body, b"alone");
    let caller = PushClient::connect(&hosts.other.grpc.to_string()).unwrap();
    until_reaches(1, &caller, To::User(1), b"together");
    assert_eq!(client.recv().body, b"together");
}

/// The new process ends early, so the former one makes the pushes that it held back.
#[test]
fn a_host_continues_to_receive_pushes_after_a_failed_upgrade() {
    let Some(hosts) = Hosts::start(&[]) else { return };
    let mut clients = hosts.clients();
    hosts.line.fail(&["--binary", "/bin/false"], "the new process ended");
    let caller = PushClient::connect(&hosts.other.grpc.to_string()).unwrap();
    until_reaches(2 * CLIENTS as u64, &caller, To::Room(ROOM), b"as before");
    for client in &mut clients {
        assert_eq!(client.recv().body, b"as before");
    }
}
