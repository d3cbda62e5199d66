//! Histories that hosts share by a stream of NATS: any host recovers any client, all of it or nothing.

use std::path::PathBuf;
use std::time::Duration;

use ::comet::caller::PushClient;
use comet_client::{Client, Joined, Options, Position};
use rustix::process::Signal;

use crate::nats_server::NatsServer;
use crate::process::{Server, comet, with_sets};
use crate::support::{Metrics, PATIENCE, Permit, To, try_push, until};

const ROOM: &str = "h://r";
const OPERATION: i32 = 1000;

struct Rig {
    hosts: Vec<Option<Server>>,
    settings: Vec<String>,
    nats: NatsServer,
    store: PathBuf,
    _permit: Permit,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // What is left is in the directory of temporary files.
        let _ = std::fs::remove_dir_all(&self.store);
    }
}

impl Rig {
    /// So many processes with a core each. `None`: there is no `nats-server`.
    fn start(name: &str, hosts: usize, settings: &[&str]) -> Option<Self> {
        let permit = Permit::wait();
        let store = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&store);
        let nats = NatsServer::start(&["-js", "-sd", store.to_str().unwrap()])?;
        let settings = settings.iter().map(ToString::to_string).collect();
        let mut rig = Self { hosts: Vec::new(), settings, nats, store, _permit: permit };
        for host in 1..=hosts {
            rig.add_host();
            (0..host).for_each(|other| rig.until(other, "comet_cluster_hosts", host as u64 - 1));
        }
        Some(rig)
    }

    fn add_host(&mut self) -> usize {
        let number = self.hosts.len();
        let cpu = ::comet::machine().unwrap().cpus[number % 2].to_string();
        let mut sets = self.settings.clone();
        sets.push(format!("nats.servers=[\"nats://{}\"]", self.nats.address()));
        sets.push(format!("server.id=\"host-{number}\""));
        sets.push("nats.history=\"jetstream\"".to_owned());
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let arguments = [&["--cores", &*cpu], &*with_sets(&sets)].concat();
        self.hosts.push(Some(Server::launch(comet(&arguments), None)));
        self.until(number, "comet_cluster_stream_is_read", 1);
        number
    }

    fn host(&self, host: usize) -> &Server {
        self.hosts[host].as_ref().expect("it was not killed")
    }

    fn until(&self, host: usize, sample: &str, value: u64) {
        let what = format!("{sample} of host {host} to be {value}");
        until(&what, || Metrics::read(self.host(host).stat).value(sample) == value);
    }

    fn caller(&self, host: usize) -> PushClient {
        PushClient::connect(&self.host(host).grpc.to_string()).unwrap()
    }

    fn push(&self, host: usize, body: &str) {
        let pushed = try_push(&self.caller(host), To::Room(ROOM), OPERATION, body.as_bytes());
        pushed.unwrap_or_else(|error| panic!("{body}: {error}"));
    }

    fn client(&self, host: usize) -> Client {
        let address = self.host(host).tcp.to_string();
        let token = "{\"mid\":0,\"key\":\"\",\"room_id\":\"\",\"accepts\":[1000]}";
        Options::tcp(address, token).timeout(PATIENCE).connect().unwrap()
    }

    /// A client that comes back, and what it is told. All hosts have read what was pushed.
    fn back(&self, host: usize, since: Position) -> (Client, Joined) {
        let mut client = self.client(host);
        let joined = client.add_room_since(ROOM, since).unwrap();
        (client, joined)
    }

    fn until_all_read(&self, hosts: &[usize], pushes: u64) {
        for host in hosts {
            self.until(*host, "comet_cluster_stream_read_total", pushes);
        }
    }
}

/// The bodies that come next, and the position of the last.
fn next(client: &mut Client, count: usize) -> (Vec<String>, Position) {
    let mut position = None;
    let bodies = (0..count).map(|_| {
        let message = client.receive_timeout(PATIENCE).unwrap().expect("a push comes");
        position = message.position;
        String::from_utf8(message.body).unwrap()
    });
    (bodies.collect(), position.expect("the room has a history"))
}

fn bodies(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

fn assert_quiet(client: &mut Client) {
    let more = client.receive_timeout(Duration::from_millis(50)).unwrap();
    assert!(more.is_none(), "a push came twice: {more:?}");
    assert_eq!(client.take_gap(), None);
}

#[test]
fn another_host_recovers_the_client_of_a_host_that_was_killed() {
    let rule = "history.rules=[{rooms=\"h://\", pushes=1000}]";
    let Some(mut rig) = Rig::start("stream-of-three", 3, &[rule]) else { return };
    let mut first = rig.client(0);
    let joined = first.add_room(ROOM).unwrap();
    let nothing = joined.position.expect("the room has a history");
    assert_ne!(nothing.epoch, 0);
    let ledger = try_push(&rig.caller(2), To::Room(ROOM), OPERATION, b"0").unwrap();
    assert_eq!((ledger.matched, ledger.queued, &*ledger.unanswered), (1, 1, &[][..]));
    (1..5).for_each(|number| rig.push(number as usize % 3, &number.to_string()));
    let (got, position) = next(&mut first, 5);
    assert_eq!((got, position.epoch), (bodies(0..5), nothing.epoch));

    let victim = rig.hosts[0].take().unwrap();
    victim.signal(Signal::KILL);
    victim.end_status();
    // Nobody is in the room on any host.
    (5..10).for_each(|number| rig.push(2, &number.to_string()));
    rig.until_all_read(&[1, 2], 10);
    let (mut second, joined) = rig.back(1, position);
    assert_eq!(joined.recovered, Some(5));
    let (got, position) = next(&mut second, 5);
    assert_eq!(got, bodies(5..10));
    assert_quiet(&mut second);
    let (mut third, joined) = rig.back(2, nothing);
    assert_eq!(joined.recovered, Some(10));
    assert_eq!(next(&mut third, 10), (bodies(0..10), position));

    // NATS goes and comes: a push is stored or refused, and positions stay.
    rig.nats.stop();
    rig.until(1, "comet_cluster_connected", 0);
    let refused = try_push(&rig.caller(1), To::Room(ROOM), OPERATION, b"nobody gets it");
    let refused = refused.expect_err("there is no stream").to_string();
    assert!(refused.contains("there is no connection to NATS"), "{refused}");
    rig.nats.restart();
    let caller = rig.caller(1);
    until("the stream to take a push", || {
        try_push(&caller, To::Room(ROOM), OPERATION, b"10").is_ok()
    });
    rig.push(2, "11");
    for client in [&mut second, &mut third] {
        let (got, after) = next(client, 2);
        assert_eq!((got, after.epoch), (bodies(10..12), position.epoch));
        assert_quiet(client);
    }
    let (mut fourth, joined) = rig.back(2, position);
    assert_eq!(joined.recovered, Some(2));
    assert_eq!(next(&mut fourth, 2).0, bodies(10..12));

    // A host that begins reads what is there, and gives it to nobody twice.
    let late = rig.add_host();
    let (mut fifth, joined) = rig.back(late, nothing);
    assert_eq!(joined.recovered, Some(12));
    assert_eq!(next(&mut fifth, 12).0, bodies(0..12));
    rig.push(late, "12");
    for client in [&mut second, &mut third, &mut fourth, &mut fifth] {
        assert_eq!(next(client, 1).0, bodies(12..13));
        assert_quiet(client);
    }
}

#[test]
fn what_the_stream_has_dropped_is_not_recovered() {
    let rule = "history.rules=[{rooms=\"h://\", pushes=1000, bytes=\"1MiB\"}]";
    let bound = "nats.history_bytes=\"1MiB\"";
    let Some(mut rig) = Rig::start("stream-with-a-bound", 1, &[rule, bound]) else { return };
    let mut client = rig.client(0);
    let oldest = client.add_room(ROOM).unwrap().position.unwrap();
    let body = |number: u32| format!("{number}{}", "x".repeat(100 << 10));
    (0..20).for_each(|number| rig.push(0, &body(number)));
    let mut positions = Vec::new();
    for number in 0..20 {
        let (got, position) = next(&mut client, 1);
        assert!(got[0] == body(number), "{number}");
        positions.push(position);
    }
    let late = rig.add_host();
    let (_, joined) = rig.back(late, oldest);
    assert_eq!((joined.recovered, joined.position), (None, Some(positions[19])));
    let (mut recent, joined) = rig.back(late, positions[15]);
    assert_eq!(joined.recovered, Some(4));
    for number in 16..20 {
        assert!(next(&mut recent, 1).0[0] == body(number), "{number}");
    }
    assert_quiet(&mut recent);
}
