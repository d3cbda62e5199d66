//! An upgraded host continues its part of a paced broadcast of several hosts, and the broadcast still ends on all of them.

use comet::blocking_client::PushClient;
use comet_client::Transport;
use serde_json::{Value, json};

use crate::peer::{Peer, receivers_before_next};
use crate::process::{Server, run};
use crate::support::{Metrics, To, push, until, until_reaches};

use super::nats::Hosts;
use super::token;

/// The number of clients, half of them on each host.
const CLIENTS: u32 = 200;
/// Connections a second of both hosts, so few that a broadcast does not end by itself. Each core visits at least one a second.
const SLOW: u32 = 2;

fn ctl(host: &Server, order: &[&str]) -> Vec<Value> {
    let grpc = host.grpc.to_string();
    let (code, said, error) = run(&[&["ctl", "--grpc", &grpc], order, &["--json"]].concat());
    assert_eq!((code, &*error), (0, ""), "{order:?}");
    said.lines().map(|object| serde_json::from_str(object).unwrap()).collect()
}

#[track_caller]
fn listed(host: &Server) -> Value {
    let mut all = ctl(host, &["broadcasts"]);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn queued(hosts: &Hosts) -> u64 {
    let hosts = [&hosts.line.server, &hosts.other];
    hosts.iter().map(|host| Metrics::read(host.stat).value("comet_queued_total")).sum()
}

/// How many clients got the broadcast, each once. The next push shows that no more of it comes.
fn receivers(hosts: &Hosts, clients: &mut [Peer], paced: &[u8]) -> u64 {
    let caller = PushClient::connect(&hosts.other.grpc.to_string()).unwrap();
    assert_eq!(push(&caller, To::All, 5, b"next").queued, clients.len() as u64);
    receivers_before_next(clients, paced)
}

#[test]
fn an_upgraded_host_continues_its_part_of_a_paced_broadcast() {
    let Some(mut hosts) = Hosts::start_with(&[], &[], &[]) else { return };
    let user = |user: u32| {
        let host = if user.is_multiple_of(2) { &hosts.line.server } else { &hosts.other };
        host.live(Transport::Tcp, &token(user))
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(user).collect();
    let all = u64::from(CLIENTS);
    // Begun by the upgraded host, and by the other one.
    for by_other in [true, false] {
        let grpc = if by_other { hosts.other.grpc } else { hosts.line.server.grpc };
        let caller = PushClient::connect(&grpc.to_string()).unwrap();
        until_reaches(all, &caller, To::All, b"ready");
        let before = queued(&hosts);
        let ledger = caller.broadcast(5, b"paced", Some(SLOW)).unwrap().unwrap();
        assert_eq!((ledger.scheduled, &ledger.unanswered[..]), (all, &[] as &[String]));
        drop(caller);
        let begun = listed(&hosts.line.server);
        hosts.line.upgrade();
        hosts.until_joined();
        let moved = listed(&hosts.line.server);
        let other = listed(&hosts.other);
        for field in ["id", "name", "speed"] {
            assert_eq!(moved[field], begun[field], "{field}");
        }
        assert_eq!((&other["name"], &other["speed"]), (&moved["name"], &json!(SLOW / 2)));
        let (host, id) = match by_other {
            true => (&hosts.line.server, &moved["id"]),
            false => (&hosts.other, &other["id"]),
        };
        let ledger = ctl(host, &["cancel", &id.to_string()]).remove(0);
        for host in [&hosts.line.server, &hosts.other] {
            until("the broadcast to end", || ctl(host, &["broadcasts"]).is_empty());
        }
        let got = queued(&hosts) - before;
        assert_eq!(ledger, json!({ "matched": got, "queued": got, "dropped": {} }));
        assert!(got < all, "the broadcast was cancelled before its end");
        assert_eq!(receivers(&hosts, &mut clients, b"paced"), got);
    }
}
