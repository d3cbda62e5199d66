//! Histories that hosts share by a stream of NATS: any host recovers any client, completely or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use ::comet::blocking_client::PushClient;
use comet_client::{Client, GapState, Joined, Options, Position};
use rustix::process::Signal;

use crate::nats_server::NatsServer;
use crate::process::{Server, comet, with_sets};
use crate::scratch;
use crate::support::{Metrics, PATIENCE, Permit, SetOnDrop, To, try_push, until, until_more};
use crate::two_hosts::until_others_had_their_time;

const ROOM: &str = "h://r";
const OPERATION: i32 = 1000;
/// The body of the last push.
const END: &str = "end";

struct Rig {
    hosts: Vec<Option<Server>>,
    settings: Vec<String>,
    nats: NatsServer,
    store: PathBuf,
    _permit: Permit,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The folder is in the directory of temporary files, so a failure leaves nothing behind for long.
        let _ = fs::remove_dir_all(&self.store);
    }
}

impl Rig {
    /// Starts `hosts` processes with a core each. `None`: `nats-server` is not installed.
    fn start(name: &str, hosts: usize, settings: &[&str]) -> Option<Self> {
        let mut rig = Self::with_nats(name, true, settings)?;
        for _ in 0..hosts {
            rig.add_host();
        }
        for host in 0..hosts {
            rig.until(host, "comet_cluster_stream_hosts", hosts as u64);
            until_others_had_their_time(rig.host(host));
        }
        Some(rig)
    }

    /// Starts NATS without hosts.
    fn with_nats(name: &str, has_jetstream: bool, settings: &[&str]) -> Option<Self> {
        let permit = Permit::wait();
        let store = scratch::folder().join(name);
        let _ = fs::remove_dir_all(&store);
        let arguments = ["-js", "-sd", store.to_str().unwrap()];
        let nats = NatsServer::start(if has_jetstream { &arguments } else { &[] })?;
        let settings = settings.iter().map(ToString::to_string).collect();
        Some(Self { hosts: Vec::new(), settings, nats, store, _permit: permit })
    }

    fn add_host(&mut self) -> usize {
        let number = self.launch_host();
        self.until(number, "comet_cluster_stream_is_read", 1);
        number
    }

    fn launch_host(&mut self) -> usize {
        let number = self.hosts.len();
        let cpu = ::comet::machine().unwrap().cpus[number % 2].to_string();
        let mut sets = self.settings.clone();
        sets.push(format!("nats.servers=[\"nats://{}\"]", self.nats.address()));
        sets.push(format!("server.id=\"host-{number}\""));
        sets.push("nats.history=\"jetstream\"".to_owned());
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let arguments = [&["--cores", &*cpu], &*with_sets(&sets)].concat();
        self.hosts.push(Some(Server::launch(comet(&arguments), None)));
        number
    }

    fn host(&self, host: usize) -> &Server {
        self.hosts[host].as_ref().expect("the host runs")
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

    /// Tries until the stream takes a push. Each try has another body, as a push that failed by a timeout may be stored.
    fn until_stored(&self, host: usize) {
        let (caller, mut tries) = (self.caller(host), 0);
        until("the stream to take a push", || {
            tries += 1;
            let body = format!("try {tries}");
            try_push(&caller, To::Room(ROOM), OPERATION, body.as_bytes()).is_ok()
        });
    }

    fn client(&self, host: usize) -> Client {
        let address = self.host(host).tcp.to_string();
        let token = "{\"mid\":0,\"key\":\"\",\"room_id\":\"\",\"accepts\":[1000]}";
        Options::tcp(address, token).timeout(PATIENCE).connect().unwrap()
    }

    /// A client that comes back, and the reply to it. By then all hosts must have read all pushes of the stream.
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

/// The next `count` bodies, and the position of the last one.
fn next(client: &mut Client, count: usize) -> (Vec<String>, Position) {
    let mut position = None;
    let bodies = (0..count).map(|_| {
        let message = client.receive_timeout(PATIENCE).unwrap().expect("a push arrives");
        position = message.position;
        String::from_utf8(message.body).unwrap()
    });
    (bodies.collect(), position.expect("the room has a history"))
}

/// The bodies up to `last`, and its position.
fn until_body(client: &mut Client, last: &str) -> (Vec<String>, Position) {
    let mut all = Vec::new();
    loop {
        let (mut body, position) = next(client, 1);
        all.append(&mut body);
        if all.last().is_some_and(|body| body == last) {
            return (all, position);
        }
    }
}

fn bodies(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

fn assert_quiet(client: &mut Client) {
    let more = client.receive_timeout(Duration::from_millis(50)).unwrap();
    assert!(more.is_none(), "a push came twice: {more:?}");
    assert_eq!(client.take_gap(), None);
}

/// Waits until the client learns that it may have missed pushes of the room, which cannot be recovered.
fn until_lost(client: &mut Client) {
    until("the client to learn of a gap", || {
        let message = client.receive_timeout(Duration::from_millis(10)).unwrap();
        assert!(message.is_none(), "{message:?}");
        client.take_gap().is_some_and(|gap| &*gap.room == ROOM && gap.state == GapState::Lost)
    });
}

#[test]
fn clients_of_a_killed_host_are_recovered_by_another_host() {
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
    // The room has no members on any host now.
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

    // NATS stops and starts: each push is stored or refused, and positions stay valid.
    rig.nats.stop();
    rig.until(1, "comet_cluster_connected", 0);
    let refused = try_push(&rig.caller(1), To::Room(ROOM), OPERATION, b"nobody gets it");
    let refused = refused.expect_err("there is no stream").to_string();
    assert!(refused.contains("there is no connection to NATS"), "{refused}");
    rig.nats.restart();
    rig.until_stored(1);
    (10..12).for_each(|number| rig.push(number % 2 + 1, &number.to_string()));
    let (since, after) = until_body(&mut second, "11");
    assert_eq!(until_body(&mut third, "11"), (since.clone(), after));
    assert_eq!((&since[since.len() - 2..], after.epoch), (&bodies(10..12)[..], position.epoch));
    let (mut fourth, joined) = rig.back(2, position);
    assert_eq!(joined.recovered, Some(since.len() as u32));
    assert_eq!(next(&mut fourth, since.len()).0, since);

    // A new host reads the pushes of the stream, and delivers none of them again.
    let late = rig.add_host();
    let (mut fifth, joined) = rig.back(late, nothing);
    let all = [bodies(0..10), since].concat();
    assert_eq!(joined.recovered, Some(all.len() as u32));
    assert_eq!(next(&mut fifth, all.len()).0, all);
    rig.push(late, "12");
    for client in [&mut second, &mut third, &mut fourth, &mut fifth] {
        assert_eq!(next(client, 1).0, bodies(12..13));
        assert_quiet(client);
    }
}

#[test]
fn pushes_dropped_from_the_stream_are_not_recovered() {
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

/// NATS runs without a stream. Pushes to rooms with a history are refused, since they would have no position.
#[test]
fn a_stream_may_be_created_after_its_hosts_have_started() {
    let rule = "history.rules=[{rooms=\"h://\", pushes=1000}]";
    let Some(mut rig) = Rig::with_nats("stream-that-is-late", false, &[rule]) else { return };
    rig.launch_host();
    rig.until(0, "comet_cluster_connected", 1);
    let mut client = rig.client(0);
    let nothing = client.add_room(ROOM).unwrap().position.expect("the room has a history");
    assert_eq!((nothing.epoch, nothing.offset), (0, 0), "the position is not known");
    let refused = try_push(&rig.caller(0), To::Room(ROOM), OPERATION, b"nobody gets it");
    let refused = refused.expect_err("there is no stream").to_string();
    assert!(refused.contains("no stream takes it"), "{refused}");
    // Rooms without a history need no stream.
    client.add_room("plain").unwrap();
    let pushed = try_push(&rig.caller(0), To::Room("plain"), OPERATION, b"plain").unwrap();
    assert_eq!(pushed.queued, 1);
    assert_eq!(client.receive_timeout(PATIENCE).unwrap().unwrap().body, b"plain");

    rig.nats.stop();
    let store = rig.store.to_str().unwrap().to_owned();
    rig.nats.restart_with(&["-js", "-sd", &store]);
    rig.until(0, "comet_cluster_stream_is_read", 1);
    // The client entered when no position was known.
    until_lost(&mut client);
    rig.push(0, "0");
    let (got, position) = next(&mut client, 1);
    assert_eq!(got, bodies(0..1));
    assert_quiet(&mut client);
    let (_, joined) = rig.back(0, nothing);
    assert_eq!(joined.recovered, None, "its position was not valid");
    let epoch = joined.position.unwrap().epoch;
    assert_ne!(epoch, 0);
    rig.push(0, "1");
    let (mut back, joined) = rig.back(0, Position { epoch, ..position });
    assert_eq!((joined.recovered, next(&mut back, 1).0), (Some(1), bodies(1..2)));
}

/// The stream is deleted. The hosts create another one, with other positions.
#[test]
fn a_deleted_stream_is_created_again() {
    let rule = "history.rules=[{rooms=\"h://\", pushes=1000}]";
    let Some(rig) = Rig::start("stream-that-is-deleted", 2, &[rule]) else { return };
    let mut clients = [0, 1].map(|host| rig.client(host));
    let before = clients.each_mut().map(|client| client.add_room(ROOM).unwrap().position.unwrap());
    (0..3).for_each(|number| rig.push(0, &number.to_string()));
    let positions = clients.each_mut().map(|client| next(client, 3).1);
    assert_eq!(positions[0], positions[1]);
    let deleted = rig.nats.program().request("$JS.API.STREAM.DELETE.comet-history", "");
    assert!(deleted.contains("\"success\":true"), "{deleted}");
    clients.iter_mut().for_each(until_lost);
    rig.push(1, "3");
    for client in &mut clients {
        assert_eq!(next(client, 1).0, bodies(3..4));
        assert_quiet(client);
    }
    for host in [0, 1] {
        let (_, joined) = rig.back(host, positions[0]);
        let now = joined.position.unwrap();
        assert_eq!((joined.recovered, now.epoch == before[0].epoch), (None, false));
        let (mut back, joined) = rig.back(host, Position { epoch: now.epoch, offset: 0 });
        assert_eq!((joined.recovered, next(&mut back, 1).0), (Some(1), bodies(3..4)));
    }
}

/// NATS restarts without its last pushes, and stores as many others before the host looks, so the stream is not shorter.
#[test]
fn a_stream_that_lost_its_last_pushes_is_read_again() {
    let rule = "history.rules=[{rooms=\"h://\", pushes=1000}]";
    let Some(mut rig) = Rig::start("stream-without-its-tail", 1, &[rule]) else { return };
    let mut client = rig.client(0);
    client.add_room(ROOM).unwrap();
    (0..3).for_each(|number| rig.push(0, &number.to_string()));
    next(&mut client, 3);
    rig.nats.stop();
    let kept = scratch::folder().join("stream-without-its-tail-kept");
    let _ = fs::remove_dir_all(&kept);
    copy(&rig.store, &kept);
    rig.nats.restart();
    rig.until_stored(0);
    (3..6).for_each(|number| rig.push(0, &number.to_string()));
    let (_, position) = until_body(&mut client, "5");

    rig.host(0).pause(true);
    rig.nats.stop();
    fs::remove_dir_all(&rig.store).unwrap();
    fs::rename(&kept, &rig.store).unwrap();
    rig.nats.restart();
    let mut program = rig.nats.program();
    for number in 0..position.offset >> 16 {
        program.publish(&format!("comet.history.{ROOM}"), &[], &format!("other {number}"));
    }
    rig.host(0).pause(false);
    // Pushes in the place of the lost ones are not delivered.
    until_lost(&mut client);
    let (_, joined) = rig.back(0, position);
    assert_eq!((joined.recovered, joined.position.unwrap().epoch == position.epoch), (None, false));
    rig.push(0, "6");
    assert_eq!(next(&mut client, 1).0, bodies(6..7));
    assert_quiet(&mut client);
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success(), "{}", from.display());
}

/// NATS is killed and restarted with its files, and it is paused. Every stored push reaches all members once and in order, with
/// its original position.
#[test]
fn stored_pushes_arrive_once_if_nats_restarts_or_pauses() {
    let rule = "history.rules=[{rooms=\"h://\", pushes=100000, bytes=\"1MiB\"}]";
    let settings = [rule, "push.timeout=\"6s\""];
    let Some(mut rig) = Rig::start("stream-with-faults", 2, &settings) else { return };
    let mut clients = [0, 1].map(|host| rig.client(host));
    let first = clients.each_mut().map(|client| client.add_room(ROOM).unwrap().position.unwrap());
    let readers = clients.map(|mut client| {
        thread::spawn(move || {
            let mut all = Vec::new();
            while all.last().is_none_or(|(body, _): &(String, Position)| body != END) {
                let (mut body, position) = next(&mut client, 1);
                all.push((body.remove(0), position));
            }
            assert_quiet(&mut client);
            all
        })
    });
    let (is_over, stored) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let _over = SetOnDrop(Arc::clone(&is_over));
    let caller = {
        let (is_over, stored) = (Arc::clone(&is_over), Arc::clone(&stored));
        let caller = rig.caller(0);
        thread::spawn(move || {
            let mut outcomes = Vec::new();
            while !is_over.load(SeqCst) {
                let body = outcomes.len().to_string();
                let pushed = try_push(&caller, To::Room(ROOM), OPERATION, body.as_bytes());
                stored.fetch_add(u64::from(pushed.is_ok()), SeqCst);
                outcomes.push(pushed.map_err(|error| error.to_string()));
                // The history of the room must have space for all pushes.
                thread::sleep(Duration::from_millis(10));
            }
            outcomes
        })
    };
    let until_more = || until_more("stored pushes", &stored, 10);
    until_more();
    for _ in 0..2 {
        rig.nats.stop();
        rig.until(0, "comet_cluster_connected", 0);
        rig.nats.restart();
        until_more();
        rig.nats.pause(true);
        // Longer than `push.timeout`, so that the caller gives up.
        thread::sleep(Duration::from_secs(7));
        rig.nats.pause(false);
        until_more();
    }
    is_over.store(true, SeqCst);
    let outcomes = caller.join().unwrap();
    rig.until_stored(1);
    rig.push(1, END);
    let [all, others] = readers.map(|reader| reader.join().unwrap());
    assert_eq!(all, others, "both hosts have the same pushes");
    assert!(all.iter().all(|(_, position)| position.epoch == first[0].epoch));
    let numbers: Vec<usize> = all.iter().filter_map(|(body, _)| body.parse().ok()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    let mut refused = 0;
    for (number, outcome) in outcomes.iter().enumerate() {
        let has_come = numbers.binary_search(&number).is_ok();
        match outcome {
            Ok(_) => assert!(has_come, "{number} was stored"),
            // The outcome of the other failed pushes is unknown.
            Err(error) if error.contains("nobody gets it") => {
                refused += 1;
                assert!(!has_come, "{number} was refused: {error}");
            }
            Err(_) => {}
        }
    }
    let unknown = outcomes.iter().filter(|outcome| outcome.is_err()).count() - refused;
    eprintln!("{} pushes, {refused} refused, {unknown} unknown", outcomes.len());
    let (_, joined) = rig.back(1, first[0]);
    assert_eq!(joined.recovered, Some(all.len() as u32));
}
