//! Paced broadcasts at one of two hosts, each a process of its own, or by any client of NATS.

use ::comet::blocking_client::{Ledger, PushClient, PushError};
use comet_client::Transport;
use serde_json::{Value, json};

use crate::peer::{Peer, receivers_before_next};
use crate::process::run;
use crate::support::{To, push, until};
use crate::two_hosts::TwoHosts;

/// The number of broadcasts that a host paces at once.
const MOST: usize = 64;
/// Connections a second of both hosts, so few that a broadcast to all clients does not end by itself. Each core visits at least
/// one connection a second.
const SLOW: u32 = 4;
const CLIENTS: usize = 60;
const BOTH: u64 = 2 * CLIENTS as u64;

fn start() -> Option<TwoHosts> {
    TwoHosts::start(&["push.timeout=\"20s\""])
}

/// Connects `counts` clients to the hosts.
fn clients(two: &TwoHosts, counts: [usize; 2]) -> Vec<Peer> {
    let client = |host: usize, number: usize| {
        let token = json!({ "mid": 1, "key": format!("{host}-{number}"), "accepts": [5] });
        two.hosts[host].live(Transport::Tcp, &token.to_string())
    };
    let of_host = |host| (0..counts[host]).map(move |number| client(host, number));
    (0..2).flat_map(of_host).collect()
}

fn caller(two: &TwoHosts, host: usize) -> PushClient {
    PushClient::connect(&two.hosts[host].grpc.to_string()).unwrap()
}

fn try_broadcast(two: &TwoHosts, host: usize, speed: u32, body: &str) -> Result<Ledger, PushError> {
    let ledger = caller(two, host).broadcast(5, body.as_bytes(), Some(speed))?;
    Ok(ledger.expect("comet sends a ledger"))
}

/// Returns the number of connections that the broadcast is scheduled for.
#[track_caller]
fn broadcast(two: &TwoHosts, host: usize, speed: u32, body: &str) -> u64 {
    let ledger = try_broadcast(two, host, speed, body).unwrap();
    assert_eq!(ledger, Ledger { scheduled: ledger.scheduled, ..Ledger::default() });
    ledger.scheduled
}

/// The JSON objects that `comet ctl` prints, one a line.
fn ctl(two: &TwoHosts, host: usize, order: &[&str]) -> Result<Vec<Value>, String> {
    let grpc = two.hosts[host].grpc.to_string();
    let (code, said, error) = run(&[&["ctl", "--json", "--grpc", &grpc], order].concat());
    let objects = said.lines().map(|object| serde_json::from_str(object).unwrap());
    if code == 0 { Ok(objects.collect()) } else { Err(error) }
}

fn list(two: &TwoHosts, host: usize) -> Vec<Value> {
    ctl(two, host, &["broadcasts"]).unwrap()
}

/// The only broadcast of the host.
#[track_caller]
fn listed(two: &TwoHosts, host: usize) -> Value {
    let mut all = list(two, host);
    assert_eq!(all.len(), 1, "host {host}: {all:?}");
    all.remove(0)
}

fn until_listed(two: &TwoHosts, counts: [usize; 2]) {
    for (host, count) in (0..).zip(counts) {
        let what = format!("host {host} to have {count} broadcasts");
        until(&what, || list(two, host).len() == count);
    }
}

#[track_caller]
fn cancel(two: &TwoHosts, host: usize, broadcast: &Value) -> Value {
    ctl(two, host, &["cancel", &broadcast["id"].to_string()]).unwrap().remove(0)
}

fn queued(two: &TwoHosts) -> [u64; 2] {
    [0, 1].map(|host| two.metrics(host).value("comet_queued_total"))
}

/// How many clients got the broadcast, each once. The next push shows that no more of it comes.
fn receivers(two: &TwoHosts, clients: &mut [Peer], paced: &[u8]) -> u64 {
    assert_eq!(push(&caller(two, 0), To::All, 5, b"next").queued, clients.len() as u64);
    receivers_before_next(clients, paced)
}

#[test]
fn a_paced_broadcast_reaches_the_clients_of_both_hosts() {
    let Some(two) = start() else { return };
    let mut clients = clients(&two, [3, 5]);
    for (host, body) in [(0, "from a"), (1, "from b")] {
        assert_eq!(broadcast(&two, host, 1_000, body), 8);
        for client in &mut clients {
            assert_eq!(client.recv().body, body.as_bytes());
        }
        until_listed(&two, [0, 0]);
    }
    assert_eq!(queued(&two), [2 * 3, 2 * 5]);
}

#[test]
fn hosts_share_the_speed_by_their_connections() {
    let Some(two) = start() else { return };
    let _clients = clients(&two, [90, 30]);
    for host in 0..2 {
        assert_eq!(broadcast(&two, host, SLOW, ""), 120);
        let [a, b] = [0, 1].map(|host| listed(&two, host));
        assert_eq!((&a["speed"], &b["speed"]), (&json!(3), &json!(1)), "by {host}");
        let name = a["name"].as_str().unwrap();
        assert!(name.starts_with(["a.", "b."][host]), "{name}");
        assert_eq!(b["name"], name);
        cancel(&two, host, &[a, b][host]);
    }
}

#[test]
fn a_broadcast_that_is_cancelled_at_one_host_ends_on_both() {
    let Some(two) = start() else { return };
    let mut clients = clients(&two, [CLIENTS, CLIENTS]);
    for host in 0..2 {
        let before = queued(&two);
        let body = format!("cancelled at {host}");
        assert_eq!(broadcast(&two, 0, SLOW, &body), BOTH);
        until("the broadcast to go on at both hosts", || {
            queued(&two).iter().zip(before).all(|(now, before)| *now > before)
        });
        let ids = [0, 1].map(|host| listed(&two, host));
        let ledger = cancel(&two, host, &ids[host]);
        until_listed(&two, [0, 0]);
        let got = receivers(&two, &mut clients, body.as_bytes());
        assert!((2..BOTH).contains(&got), "{ledger}");
        assert_eq!(ledger, json!({ "matched": got, "queued": got, "dropped": {} }));
        let again = ctl(&two, 1 - host, &["cancel", &ids[1 - host]["id"].to_string()]).unwrap_err();
        assert!(again.contains("is under way"), "{again}");
    }
}

/// Each host numbers its broadcasts from its start, so different broadcasts have the same number.
#[test]
fn cancelling_by_number_ends_no_other_broadcast_of_another_host() {
    let Some(two) = start() else { return };
    let _clients = clients(&two, [CLIENTS, CLIENTS]);
    for (host, body) in [(0, "of a"), (1, "of b")] {
        assert_eq!(broadcast(&two, host, SLOW, body), BOTH);
    }
    let names = |host| {
        let all = list(&two, host).into_iter();
        all.map(|listed| listed["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = names(1);
    assert_eq!((before.len(), &before), (2, &names(0)));
    let [first, _] = &list(&two, 0)[..] else { panic!("two are under way") };
    cancel(&two, 0, first);
    assert_eq!((names(0), names(1)), (before[1..].to_vec(), before[1..].to_vec()));
}

#[test]
fn any_nats_client_can_pace_a_broadcast() {
    let Some(two) = start() else { return };
    let mut clients = clients(&two, [CLIENTS, CLIENTS]);
    let mut program = two.nats.program();
    program.publish("comet.all", &[("Comet-Speed", "1000")], "fast");
    for client in &mut clients {
        assert_eq!(client.recv().body, b"fast");
    }
    until_listed(&two, [0, 0]);
    // Without a name each host has a broadcast of its own, at the full speed.
    program.publish("comet.all", &[("Comet-Speed", "2")], "slow");
    until_listed(&two, [1, 1]);
    let both = [0, 1].map(|host| listed(&two, host));
    for listed in &both {
        assert_eq!((&listed["speed"], listed.get("name")), (&json!(2), None), "{listed}");
    }
    cancel(&two, 0, &both[0]);
    until_listed(&two, [0, 1]);
    cancel(&two, 1, &both[1]);
    // With a name and the total number of connections, hosts share the speed.
    let headers =
        [("Comet-Speed", "8"), ("Comet-Connections", "240"), ("Comet-Broadcast", "news%207")];
    program.publish("comet.all", &headers, "named");
    until_listed(&two, [1, 1]);
    let both = [0, 1].map(|host| listed(&two, host));
    for listed in &both {
        assert_eq!((&listed["speed"], &listed["name"]), (&json!(2), &json!("news 7")), "{listed}");
    }
    cancel(&two, 1, &both[1]);
    until_listed(&two, [0, 0]);
    // A broadcast with the name of a cancelled one is refused.
    let refused = two.metrics(0).value("comet_cluster_refused_total");
    program.publish("comet.all", &headers, "again");
    two.until(0, "comet_cluster_refused_total", refused + 1);
    assert_eq!(list(&two, 0), [] as [Value; 0]);
}

#[test]
fn an_invalid_speed_pushes_nothing() {
    let Some(two) = start() else { return };
    let mut clients = clients(&two, [1, 1]);
    let mut program = two.nats.program();
    for speed in ["0", "-1", "fast"] {
        program.publish("comet.all", &[("Comet-Speed", speed)], "invalid");
    }
    program.publish("comet.user.1", &[("Comet-Speed", "7")], "is for one");
    for host in 0..2 {
        two.until(host, "comet_cluster_invalid_total", 4);
    }
    assert_eq!(receivers(&two, &mut clients, b"invalid"), 0);
}

#[test]
fn a_host_that_paces_too_many_broadcasts_already_is_named() {
    let Some(two) = start() else { return };
    let _there = clients(&two, [0, 200]);
    let mut program = two.nats.program();
    for _ in 0..MOST {
        program.publish("comet.all", &[("Comet-Speed", "2")], "slow");
    }
    // Host a has no clients, so its broadcasts end at once.
    until_listed(&two, [0, MOST]);
    let _here = clients(&two, [CLIENTS, 0]);
    let ledger = try_broadcast(&two, 0, SLOW, "at a").unwrap();
    assert_eq!((ledger.scheduled, ledger.unanswered), (CLIENTS as u64, vec!["b".to_owned()]));
    let received = two.metrics(0).value("comet_cluster_received_total");
    let refused = try_broadcast(&two, 1, SLOW, "at b").unwrap_err().to_string();
    assert!(refused.contains("64 paced"), "{refused}");
    // If b had published the refused broadcast, a would have received it before the next push of b.
    assert_eq!(push(&caller(&two, 1), To::All, 5, b"next").unanswered, [] as [&str; 0]);
    two.until(0, "comet_cluster_received_total", received + 1);
}

#[test]
fn a_silent_host_is_named_and_its_part_can_be_cancelled() {
    let Some(two) = TwoHosts::start(&["push.timeout=\"8s\""]) else { return };
    let _clients = clients(&two, [200, 100]);
    two.pause(1, true);
    let ledger = try_broadcast(&two, 0, 2, "slow").unwrap();
    let own = listed(&two, 0);
    two.pause(1, false);
    assert_eq!((ledger.scheduled, ledger.unanswered), (200, vec!["b".to_owned()]));
    assert_eq!(own["speed"], 2, "the connections of the other host are not known");
    // The stopped host gets the broadcast once it runs again.
    until_listed(&two, [1, 1]);
    assert_eq!(listed(&two, 1)["name"], own["name"]);
    cancel(&two, 0, &own);
    until_listed(&two, [0, 0]);
}
