//! A host that shares histories of rooms is upgraded: the new process continues to read the stream where the former one stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use comet::blocking_client::PushClient;
use comet_client::{Client, Joined, Options, Position};

use crate::scratch;
use crate::support::{Metrics, PATIENCE, SetOnDrop, To, push, until, until_more};

use super::hangs::one_that_hangs;
use super::nats::{Hosts, ROOM, call};

/// The body of the last push.
const END: &str = "end";
const UPGRADES: usize = 3;
/// Pushes between two upgrades, and the pause after each, so that the history of a room has space for all pushes of a test.
const PUSHES: u64 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Two hosts, and the folder of their stream.
struct Rig {
    hosts: Hosts,
    store: PathBuf,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A failure is ignored, as the folder is in the directory of temporary files.
        let _ = std::fs::remove_dir_all(&self.store);
    }
}

impl Rig {
    fn start(name: &str) -> Option<Self> {
        let store = scratch::folder().join(name);
        let _ = std::fs::remove_dir_all(&store);
        let nats = ["-js", "-sd", store.to_str().unwrap()];
        let rule = "history.rules=[{rooms=\"live://\", pushes=100000, bytes=\"1MiB\"}]";
        let hosts = Hosts::start_with(&nats, &["nats.history=\"jetstream\"", rule], &[])?;
        let rig = Self { hosts, store };
        rig.until_read();
        Some(rig)
    }

    fn until_read(&self) {
        for stat in [self.hosts.line.server.stat, self.hosts.other.stat] {
            until("the stream to be read", || {
                Metrics::read(stat).value("comet_cluster_stream_hosts") == 2
            });
        }
    }

    fn upgrade(&mut self) {
        self.hosts.line.upgrade();
        self.hosts.until_joined();
        self.until_read();
    }

    /// A client of the host that is upgraded, and one of the other host.
    fn clients(&self) -> [Client; 2] {
        let Hosts { line, other, .. } = &self.hosts;
        [line.server.tcp, other.tcp].map(|address| {
            let token = "{\"mid\":0,\"key\":\"\",\"room_id\":\"\",\"accepts\":[5]}";
            Options::tcp(address.to_string(), token).timeout(PATIENCE).connect().unwrap()
        })
    }

    /// Clients that come back, and the replies to them.
    fn back(&self, since: Position) -> [(Client, Joined); 2] {
        self.clients().map(|mut client| {
            let joined = client.add_room_since(ROOM, since).unwrap();
            (client, joined)
        })
    }

    fn read_by_the_line(&self) -> u64 {
        self.hosts.line.metrics().value("comet_cluster_stream_read_total")
    }
}

fn next(client: &mut Client) -> (String, Position) {
    let message = client.receive_timeout(PATIENCE).unwrap().expect("a push arrives");
    let position = message.position.expect("the room has a history");
    (String::from_utf8(message.body).unwrap(), position)
}

/// All bodies with their positions, up to the last one.
fn read(mut client: Client) -> JoinHandle<(Client, Vec<(String, Position)>)> {
    thread::spawn(move || {
        let mut all = Vec::new();
        while all.last().is_none_or(|(body, _)| body != END) {
            all.push(next(&mut client));
        }
        (client, all)
    })
}

#[test]
fn positions_continue_and_the_stream_is_not_read_again() {
    let Some(mut rig) = Rig::start("stream-upgraded") else { return };
    let mut clients = rig.clients();
    let first = clients.each_mut().map(|client| client.add_room(ROOM).unwrap().position.unwrap());
    assert_eq!(first[0].epoch, first[1].epoch);
    let grpc = rig.hosts.other.grpc.to_string();
    let caller = PushClient::connect(&grpc).unwrap();
    let pushed = |body: &str| {
        let ledger = push(&caller, To::Room(ROOM), 5, body.as_bytes());
        assert_eq!((ledger.queued, &*ledger.unanswered), (2, &[][..]), "{body}");
    };
    ["0", "1", "2"].into_iter().for_each(pushed);
    let mut last = first;
    for number in ["0", "1", "2"] {
        for (client, last) in clients.iter_mut().zip(&mut last) {
            let (body, position) = next(client);
            assert_eq!((&*body, position.epoch), (number, first[0].epoch));
            *last = position;
        }
        assert_eq!(last[0], last[1]);
    }
    for number in 3..=4 {
        let read = rig.read_by_the_line();
        rig.upgrade();
        assert_eq!(
            rig.read_by_the_line(),
            read,
            "the new process continues where the former one stopped"
        );
        let body = number.to_string();
        let ledger = push(&caller, To::Room(ROOM), 5, body.as_bytes());
        assert_eq!((ledger.queued, &*ledger.unanswered), (2, &[][..]), "both hosts answer");
        assert_eq!(rig.read_by_the_line(), read + 1);
        for (client, last) in clients.iter_mut().zip(&mut last) {
            let (got, position) = next(client);
            assert_eq!((got, position.epoch, client.take_gap()), (body.clone(), last.epoch, None));
            *last = position;
        }
        assert_eq!(last[0], last[1]);
    }
    for (mut client, joined) in rig.back(first[0]) {
        assert_eq!((joined.recovered, joined.position), (Some(5), Some(last[0])));
        let all: Vec<_> = (0..5).map(|_| next(&mut client).0).collect();
        assert_eq!(all, ["0", "1", "2", "3", "4"]);
    }
    for (_, joined) in rig.back(last[0]) {
        assert_eq!((joined.recovered, joined.position), (Some(0), Some(last[0])));
    }
}

#[test]
fn stored_pushes_arrive_once_and_in_order_while_a_host_is_upgraded() {
    let Some(mut rig) = Rig::start("stream-upgraded-amid-pushes") else { return };
    let mut clients = rig.clients();
    let first = clients.each_mut().map(|client| client.add_room(ROOM).unwrap().position.unwrap());
    let readers = clients.map(read);
    let (is_over, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let _over = SetOnDrop(Arc::clone(&is_over));
    let grpc = [rig.hosts.line.server.grpc, rig.hosts.other.grpc].map(|grpc| grpc.to_string());
    let callers: Vec<_> = ["a", "b"]
        .into_iter()
        .zip(grpc)
        .map(|(host, grpc)| call(host, grpc, PAUSE, (Arc::clone(&is_over), Arc::clone(&made))))
        .collect();
    for _ in 0..UPGRADES {
        until_more("pushes", &made, PUSHES);
        rig.upgrade();
    }
    until_more("pushes", &made, PUSHES);
    is_over.store(true, SeqCst);
    let ledgers = callers.into_iter().map(|caller| caller.join().unwrap()).collect::<Vec<_>>();
    let caller = PushClient::connect(&rig.hosts.other.grpc.to_string()).unwrap();
    push(&caller, To::Room(ROOM), 5, END.as_bytes());
    let [(mut here, all), (mut there, others)] = readers.map(|reader| reader.join().unwrap());
    assert_eq!(all, others, "all hosts have the same pushes with the same positions");
    assert_eq!((here.take_gap(), there.take_gap()), (None, None));
    assert!(all.is_sorted_by_key(|(_, position)| (position.epoch, position.offset)));
    assert!(all.iter().all(|(_, position)| position.epoch == first[0].epoch));
    let (mut unknown, mut named, mut known) = (0, 0, 0);
    for (host, ledgers) in ["a", "b"].iter().zip(&ledgers) {
        let numbers: Vec<usize> = all
            .iter()
            .filter_map(|(body, _)| body.strip_prefix(host)?.trim_start().parse().ok())
            .collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "pushes of {host}: {numbers:?}");
        for (number, ledger) in ledgers.iter().enumerate() {
            let has_come = numbers.binary_search(&number).is_ok();
            match ledger {
                Some(ledger) => {
                    assert!(has_come, "{host} {number}: {ledger:?}");
                    let is_named = !ledger.unanswered.is_empty();
                    assert!(is_named || ledger.queued == 2, "{host} {number}: {ledger:?}");
                    (known, named) = (known + 1, named + usize::from(is_named));
                }
                None => unknown += 1,
            }
        }
    }
    eprintln!("{known} pushes, {named} name a host, {unknown} unknown");
    assert!(unknown <= 2 * UPGRADES, "{unknown} pushes have an unknown result");
    for (mut client, joined) in rig.back(first[0]) {
        assert_eq!(joined.recovered, Some(all.len() as u32));
        for expected in &all {
            // Only bodies are compared: positions of recovered pushes are counted back from the last one.
            assert_eq!(next(&mut client).0, expected.0);
        }
    }
    rig.hosts.line.metrics().assert_balanced();
}

/// The new process hangs once it has the state. Pushes meanwhile wait in the stream.
#[test]
fn a_host_continues_to_read_the_stream_after_a_failed_upgrade() {
    let Some(mut rig) = Rig::start("stream-not-upgraded") else { return };
    let mut clients = rig.clients();
    let first = clients.each_mut().map(|client| client.add_room(ROOM).unwrap().position.unwrap());
    let grpc = rig.hosts.other.grpc.to_string();
    let (is_over, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let _over = SetOnDrop(Arc::clone(&is_over));
    let readers = clients.map(read);
    let caller = call("b", grpc.clone(), PAUSE, (Arc::clone(&is_over), Arc::clone(&made)));
    until_more("pushes", &made, PUSHES);
    let (hangs, stopped) = one_that_hangs("upgrade-of-a-stream-is-stopped");
    rig.hosts.line.fail(&["--binary", &hangs], "does not answer in time");
    assert!(stopped.exists(), "the new process had the state");
    until_more("pushes", &made, PUSHES);
    rig.upgrade();
    is_over.store(true, SeqCst);
    let ledgers = caller.join().unwrap();
    let caller = PushClient::connect(&grpc).unwrap();
    push(&caller, To::Room(ROOM), 5, END.as_bytes());
    let [(_, all), (_, others)] = readers.map(|reader| reader.join().unwrap());
    assert_eq!(all, others);
    assert!(all.iter().all(|(_, position)| position.epoch == first[0].epoch));
    let bodies: Vec<String> = all.into_iter().map(|(body, _)| body).collect();
    let mut expected: Vec<String> =
        (0..ledgers.len()).map(|number| format!("b {number}")).collect();
    expected.push(END.to_owned());
    assert!(ledgers.iter().all(Option::is_some), "the other host stores each push");
    assert_eq!(bodies, expected);
}
