//! Lists of members and rooms, and totals, by a call at one of three hosts. Each host is a process of its own.

use std::collections::BTreeSet;

use comet_client::Transport;
use serde_json::{Value, json};

use crate::nats::two_hosts;
use crate::nats_server::NatsServer;
use crate::peer::Peer;
use crate::process::{self, comet, run, with_sets};
use crate::support::{Metrics, Permit, Server, http, two_cores, until};
use crate::two_hosts::until_others_had_their_time;

const NAMES: [&str; 3] = ["a", "b", "c"];

struct Rig {
    hosts: Vec<process::Server>,
    _nats: NatsServer,
    _permit: Permit,
}

impl Rig {
    /// `None`: `nats-server` is not installed.
    fn start(timeout: &str) -> Option<Self> {
        let permit = Permit::wait();
        let nats = NatsServer::start(&[])?;
        let servers = format!("nats.servers=[\"nats://{}\"]", nats.address());
        let cores = two_cores();
        let start = |name: &str| {
            let id = format!("server.id={name:?}");
            let sets = with_sets(&[&servers, &id, timeout, "clients.rooms=8"]);
            process::Server::launch(comet(&[&["--cores", &*cores], &*sets].concat()), None)
        };
        let hosts: Vec<_> = NAMES.iter().map(|name| start(name)).collect();
        for host in &hosts {
            let known = || Metrics::read(host.stat).value("comet_cluster_hosts");
            until("the hosts to know each other", || known() == 2);
            until_others_had_their_time(host);
        }
        Some(Self { hosts, _nats: nats, _permit: permit })
    }

    fn client(&self, host: usize, number: i64, room: &str) -> Peer {
        let key = format!("{}-{number}", NAMES[host]);
        let token = json!({ "mid": number, "key": key, "room_id": room }).to_string();
        self.hosts[host].live(Transport::Tcp, &token)
    }

    /// The lines that `comet ctl` prints.
    fn ctl(&self, host: usize, order: &[&str]) -> Vec<Value> {
        let grpc = self.hosts[host].grpc.to_string();
        let (code, stdout, stderr) = run(&[&["ctl", "--json", "--grpc", &grpc], order].concat());
        assert_eq!((code, &*stderr), (0, ""), "{order:?}");
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until the homes know all members. They learn of those of other cores by the next report.
    fn until_counted(&self, room: &str, members: u64) {
        for host in 0..NAMES.len() {
            until("the homes to know all members", || {
                self.ctl(host, &["counts", room])[0]["rooms"][room] == members
            });
        }
    }
}

#[test]
fn pages_list_the_members_of_all_hosts_exactly_once() {
    let Some(rig) = Rig::start("push.timeout=\"20s\"") else { return };
    let mut clients = Vec::new();
    for host in 0..3 {
        clients.extend((0..3).map(|number| rig.client(host, number, "live://r")));
    }
    let _elsewhere = rig.client(1, 9, "live://s");
    rig.until_counted("live://r", 9);
    for host in 0..3 {
        for limit in ["1", "2", "4", "9", "1000"] {
            let (mut keys, mut cursor) = (Vec::new(), String::new());
            loop {
                let order = ["members", "live://r", "--limit", limit, "--cursor", &cursor];
                let page = rig.ctl(host, &order);
                assert_eq!((&page[0]["count"], page[0].get("unanswered")), (&json!(9), None));
                assert!(page.len() - 1 <= limit.parse().unwrap(), "{page:?}");
                for member in &page[1..] {
                    let key = member["key"].as_str().unwrap();
                    assert_eq!(key.split('-').next(), member["host"].as_str());
                    keys.push(key.to_owned());
                }
                match page[0]["next"].as_str() {
                    Some(next) => cursor = next.to_owned(),
                    None => break,
                }
                assert!(page.len() > 1, "only the last page may be empty");
            }
            let of_hosts: Vec<_> = keys.iter().map(|key| &key[..1]).collect();
            assert!(of_hosts.is_sorted(), "the order of hosts: {keys:?}");
            let unique: BTreeSet<_> = keys.iter().collect();
            assert_eq!((unique.len(), keys.len()), (9, 9), "{keys:?}");
        }
    }
    assert_eq!(rig.ctl(0, &["members", "nobody"]), [json!({ "count": 0, "next": null })]);
    // The same over HTTP.
    let (_, page) = http(rig.hosts[2].stat, "GET", "/members?room=live://s", b"");
    let page: Value = serde_json::from_slice(&page).unwrap();
    let member = &page["members"][0];
    assert_eq!(
        (&page["count"], &member["key"], &member["host"]),
        (&json!(1), &json!("b-9"), &json!("b"))
    );
}

#[test]
fn rooms_of_all_hosts_are_listed_with_the_sum_of_their_members() {
    let Some(rig) = Rig::start("push.timeout=\"20s\"") else { return };
    let mut clients = Vec::new();
    for (host, name) in NAMES.iter().enumerate() {
        clients.push(rig.client(host, 0, "live://all"));
        clients.push(rig.client(host, 1, &format!("live://{name}")));
    }
    clients.push(rig.client(2, 2, "live://b"));
    clients.push(rig.client(0, 3, "game://1"));
    let rooms =
        [("game://1", 1), ("live://a", 1), ("live://all", 3), ("live://b", 2), ("live://c", 1)];
    for (room, members) in rooms {
        rig.until_counted(room, members);
    }
    for host in 0..3 {
        for limit in ["1", "2", "100"] {
            let (mut listed, mut after) = (Vec::new(), String::new());
            loop {
                let page =
                    rig.ctl(host, &["rooms", "live://", "--limit", limit, "--after", &after]);
                listed.extend(page[1..].iter().map(|room| {
                    (room["room"].as_str().unwrap().to_owned(), room["members"].as_u64().unwrap())
                }));
                match page[0]["next"].as_str() {
                    Some(next) => after = next.to_owned(),
                    None => break,
                }
            }
            let expected = rooms[1..].iter().map(|(room, members)| ((*room).to_owned(), *members));
            assert_eq!(listed, expected.collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_online_calls_of_goim_count_all_hosts() {
    let Some(nats) = NatsServer::start(&[]) else { return };
    let [a, b] = two_hosts(&nats);
    let member = |host: &Server, number: i64, room: &str| {
        let token = json!({ "mid": number, "key": format!("k{number}"), "room_id": room });
        host.client(Transport::Tcp, &token.to_string())
    };
    let _clients =
        [member(&a, 1, "live://r"), member(&b, 2, "live://r"), member(&b, 3, "live://s")];
    for host in [&a, &b] {
        let data = |path: &str| {
            let (status, body) = http(host.http(), "GET", path, b"");
            let mut answer: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((status, &answer["code"], answer.get("unanswered")), (200, &json!(0), None));
            answer["data"].take()
        };
        until("the homes to know all members", || {
            let rooms = data("/goim/online/room?type=live&rooms=r,s,nobody");
            rooms == json!({ "r": 2, "s": 1, "nobody": 0 })
        });
        assert_eq!(data("/goim/online/total")["conn_count"], 3);
        assert_eq!(
            data("/goim/online/top?type=live&limit=1"),
            json!([{ "room_id": "r", "count": 2 }])
        );
    }
}

#[test]
fn a_list_names_the_hosts_that_did_not_answer() {
    let Some(rig) = Rig::start("push.timeout=\"8s\"") else { return };
    let _clients = [rig.client(0, 1, "live://r"), rig.client(1, 1, "live://r")];
    rig.until_counted("live://r", 2);
    rig.hosts[1].pause(true);
    let members = rig.ctl(0, &["members", "live://r"]);
    let rooms = rig.ctl(2, &["rooms"]);
    rig.hosts[1].pause(false);
    assert_eq!((&members[0]["count"], &members[0]["unanswered"]), (&json!(1), &json!(["b"])));
    assert_eq!(members[1]["key"], "a-1");
    assert_eq!(rooms[0]["unanswered"], json!(["b"]));
    assert_eq!(rooms[1..], [json!({ "room": "live://r", "members": 1 })]);
}
