//! Three hosts, each a process of its own. One is killed, and NATS restarts. Each push reaches its targets, or the ledger
//! names the hosts whose part is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use ::comet::blocking_client::{Ledger, PushClient};
use comet_client::{Client, Options};
use rustix::process::Signal;

use crate::nats_server::NatsServer;
use crate::process::{Server, comet, with_sets};
use crate::support::{Metrics, PATIENCE, Permit, To, try_push, until};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// The host that is killed.
const VICTIM: usize = 2;
/// Clients of each host. The last one accepts an operation that pushes do not have, so it gets only pushes to rooms.
const CLIENTS: usize = 4;
const FILTERED: usize = 3;
/// A user with a session on each host.
const USER: i64 = 7;
/// The operation that clients accept, and the one that client `FILTERED` accepts.
const OPERATION: i32 = 1000;
const OTHER_OPERATION: i32 = 2000;
/// The body of the last push.
const END: &[u8] = b"end";

/// The room of a client. Client 2 of each host is in another room than the rest.
fn room_of(host: usize, client: usize) -> &'static str {
    match (host, client) {
        (VICTIM, 2) => "alone",
        (_, 2) => "pair",
        _ => "everywhere",
    }
}

fn key_of(host: usize, client: usize) -> String {
    format!("{}-{client}", NAMES[host])
}

/// The target of the push with this number.
fn target(number: usize) -> To<'static> {
    const KEYS: [&str; 4] = ["a-0", "b-1", "c-2", "b-3"];
    match number % 6 {
        0 => To::Room("everywhere"),
        1 => To::Keys(&KEYS),
        2 => To::Room("pair"),
        3 => To::User(USER),
        4 => To::Room("alone"),
        _ => To::All,
    }
}

fn is_meant(to: To<'_>, (host, client): (usize, usize)) -> bool {
    match to {
        To::Room(room) => room == room_of(host, client),
        To::Keys(keys) => keys.contains(&&*key_of(host, client)),
        To::User(_) => client == 1,
        To::All => true,
    }
}

/// Three processes with a core each, and their clients.
struct Rig {
    hosts: Vec<Option<Server>>,
    readers: Vec<Vec<JoinHandle<Vec<String>>>>,
    nats: NatsServer,
    _permit: Permit,
}

impl Rig {
    fn start() -> Option<Self> {
        let permit = Permit::wait();
        let nats = NatsServer::start(&[])?;
        let servers = format!("nats.servers=[\"nats://{}\"]", nats.address());
        let cpus = ::comet::machine().unwrap().cpus;
        let start = |(number, name): (usize, &&str)| {
            let id = format!("server.id={name:?}");
            let cpu = cpus[number % 2].to_string();
            let arguments = [&["--cores", &*cpu], &*with_sets(&[&servers, &id])].concat();
            Some(Server::launch(comet(&arguments), None))
        };
        let hosts: Vec<_> = NAMES.iter().enumerate().map(start).collect();
        let mut rig = Self { hosts, readers: Vec::new(), nats, _permit: permit };
        for host in 0..NAMES.len() {
            rig.until(host, "comet_cluster_hosts", 2);
            let readers = (0..CLIENTS).map(|client| rig.reader(host, client)).collect();
            rig.readers.push(readers);
        }
        Some(rig)
    }

    fn host(&self, host: usize) -> &Server {
        self.hosts[host].as_ref().expect("the host runs")
    }

    fn until(&self, host: usize, sample: &str, value: u64) {
        let what = format!("{sample} of {} to be {value}", NAMES[host]);
        until(&what, || Metrics::read(self.host(host).stat).value(sample) == value);
    }

    /// Connects a client, and collects its bodies up to the last one.
    fn reader(&self, host: usize, client: usize) -> JoinHandle<Vec<String>> {
        let user = if client == 1 { USER } else { (10 * (host + 1) + client) as i64 };
        let accepts = if client == FILTERED { OTHER_OPERATION } else { OPERATION };
        let (key, room) = (key_of(host, client), room_of(host, client));
        let token = format!(
            "{{\"mid\":{user},\"key\":{key:?},\"room_id\":{room:?},\"accepts\":[{accepts}]}}"
        );
        let address = self.host(host).tcp.to_string();
        let client = Options::tcp(address, token).timeout(PATIENCE).connect().unwrap();
        thread::spawn(move || collect(client))
    }

    fn caller(&self, host: usize) -> PushClient {
        PushClient::connect(&self.host(host).grpc.to_string()).unwrap()
    }

    /// Pushes from each host until all hosts know all members.
    fn until_complete(&self, living: &[usize]) {
        let callers: Vec<_> = living.iter().map(|host| self.caller(*host)).collect();
        for room in ["everywhere", "pair", "alone"] {
            let meant = count(To::Room(room), living);
            for caller in &callers {
                until(&format!("the members of {room} to be known"), || {
                    let ledger = try_push(caller, To::Room(room), OPERATION, b"").unwrap();
                    let may_be_others = ledger.unanswered.iter().any(|name| name == "*");
                    ledger.matched == meant
                        && !may_be_others
                        && unanswered(&ledger, living).is_empty()
                });
            }
        }
    }

    /// Ends the clients, and returns the bodies of each client of each host.
    fn end(mut self, living: &[usize]) -> Vec<Vec<Vec<String>>> {
        let caller = self.caller(living[0]);
        for operation in [OTHER_OPERATION, OPERATION] {
            let ledger = try_push(&caller, To::All, operation, END).unwrap();
            assert_eq!(unanswered(&ledger, living), [""; 0]);
        }
        let readers = std::mem::take(&mut self.readers).into_iter();
        readers.map(|of| of.into_iter().map(|it| it.join().unwrap()).collect()).collect()
    }
}

/// Living hosts that did not answer. A killed host is named for some time, as it may be alive behind a lost connection.
fn unanswered<'a>(ledger: &'a Ledger, living: &[usize]) -> Vec<&'a str> {
    let is_living = |name: &&str| living.iter().any(|host| NAMES[*host] == *name);
    ledger.unanswered.iter().map(String::as_str).filter(is_living).collect()
}

/// The bodies up to the last one, or up to the end of the connection.
fn collect(mut client: Client) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Ok(Some(message)) = client.receive() {
        if message.body == END {
            break;
        }
        // Pushes of `until_complete` are empty.
        if !message.body.is_empty() {
            bodies.push(String::from_utf8(message.body).unwrap());
        }
    }
    bodies
}

/// Whether the operation filter of the connection accepts a push to `to`.
fn accepts_push(to: To<'_>, client: usize) -> bool {
    client != FILTERED || matches!(to, To::Room(_))
}

/// The number of clients of these hosts that a push targets.
fn count(to: To<'_>, hosts: &[usize]) -> u64 {
    let clients = hosts.iter().flat_map(|host| (0..CLIENTS).map(|client| (*host, client)));
    clients.filter(|client| is_meant(to, *client)).count() as u64
}

/// The clients of these hosts that a push targets: those that accept it, and those that do not.
fn parts(to: To<'_>, hosts: &[usize]) -> (u64, u64) {
    let is_filtered =
        |host: &&usize| is_meant(to, (**host, FILTERED)) && !accepts_push(to, FILTERED);
    let filtered = hosts.iter().filter(is_filtered).count() as u64;
    (count(to, hosts) - filtered, filtered)
}

/// The connections in the ledger: those that took the push, and those that do not accept its operation.
fn counted(ledger: &Ledger) -> (u64, u64) {
    let filtered = ledger.dropped.get("filtered").copied().unwrap_or_default();
    assert_eq!(ledger.matched, ledger.queued + filtered, "pushes are dropped by the filter only");
    (ledger.queued, filtered)
}

#[test]
fn ledgers_of_three_hosts_count_what_their_clients_get() {
    let Some(rig) = Rig::start() else { return };
    let all = [0, 1, 2];
    rig.until_complete(&all);
    let callers = all.map(|host| rig.caller(host));
    let mut expected: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
    for number in 0..90 {
        let (to, by) = (target(number), number / 6 % 3);
        let body = format!("{by} {number}");
        let ledger = try_push(&callers[by], to, OPERATION, body.as_bytes()).unwrap();
        assert_eq!((counted(&ledger), &*ledger.unanswered), (parts(to, &all), &[][..]), "{to:?}");
        assert_eq!(ledger.absent, 0, "{to:?}");
        for client in all.iter().flat_map(|host| (0..CLIENTS).map(|client| (*host, client))) {
            if is_meant(to, client) && accepts_push(to, client.1) {
                expected.entry(client).or_default().push(body.clone());
            }
        }
    }
    for (host, clients) in rig.end(&all).into_iter().enumerate() {
        for (client, got) in clients.into_iter().enumerate() {
            let expected = expected.remove(&(host, client)).unwrap_or_default();
            assert_eq!(got, expected, "{}", key_of(host, client));
        }
    }
}

/// The states of the host that is killed.
const ALIVE: u8 = 0;
const DYING: u8 = 1;
const DEAD: u8 = 2;
static VICTIM_IS: AtomicU8 = AtomicU8::new(ALIVE);
static STOP: AtomicBool = AtomicBool::new(false);

/// A push and its ledger. `None`: the host of its caller was killed.
struct Record {
    body: String,
    to: To<'static>,
    ledger: Option<Ledger>,
    /// The state of the victim when the push began and when it ended.
    victim: (u8, u8),
}

/// Pushes at one host without a pause.
fn pusher(host: usize, caller: PushClient, pushed: Sender<()>) -> JoinHandle<Vec<Record>> {
    thread::spawn(move || {
        let mut records = Vec::new();
        for number in 0.. {
            let (body, to) = (format!("{host} {number}"), target(number));
            let before = VICTIM_IS.load(SeqCst);
            let ledger = try_push(&caller, to, OPERATION, body.as_bytes());
            if host != VICTIM {
                assert!(ledger.is_ok(), "{to:?}: {:?}", ledger.err());
            }
            let is_over = ledger.is_err() || STOP.load(SeqCst);
            let victim = (before, VICTIM_IS.load(SeqCst));
            records.push(Record { body, to, ledger: ledger.ok(), victim });
            // The receiver may have been dropped.
            let _ = pushed.send(());
            if is_over {
                break;
            }
        }
        records
    })
}

/// The bodies of a client, which must differ.
fn unique(bodies: &[String]) -> BTreeSet<&str> {
    let unique: BTreeSet<&str> = bodies.iter().map(String::as_str).collect();
    assert_eq!(unique.len(), bodies.len(), "a push came twice");
    unique
}

/// On each living host a push reaches its targets, or the ledger names the host.
fn check(record: &Record, got: &[Vec<BTreeSet<&str>>]) {
    let Record { body, to, ledger, victim } = record;
    let is_named = |host: usize| {
        let unanswered = ledger.as_ref().map(|ledger| &ledger.unanswered);
        unanswered.is_none_or(|names| names.iter().any(|name| name == NAMES[host]))
    };
    for (host, clients) in got.iter().enumerate().filter(|(host, _)| *host != VICTIM) {
        for (client, bodies) in clients.iter().enumerate() {
            let (has, is_meant) = (bodies.contains(&**body), is_meant(*to, (host, client)));
            let should = is_meant && accepts_push(*to, client);
            let what = || format!("{to:?} {body:?} at {}: {ledger:?}", key_of(host, client));
            assert!(!has || should, "pushed to a wrong client: {}", what());
            let is_told = !should || is_named(host);
            assert!(has || is_told, "missing without a notice: {}", what());
        }
    }
    let Some(ledger) = ledger else { return };
    let mut answered: Vec<usize> =
        (0..NAMES.len()).filter(|host| *host != VICTIM && !is_named(*host)).collect();
    let without_victim = parts(*to, &answered);
    answered.push(VICTIM);
    let with_victim = parts(*to, &answered);
    let may_be = match victim {
        _ if is_named(VICTIM) => vec![without_victim],
        (_, ALIVE) => vec![with_victim],
        (DEAD, _) => vec![without_victim],
        _ => vec![without_victim, with_victim],
    };
    let counted = counted(ledger);
    assert!(may_be.contains(&counted), "{to:?} {body:?} {victim:?}: {ledger:?}, not {may_be:?}");
}

#[test]
fn ledgers_name_the_hosts_missed_after_a_kill_or_loss_of_nats() {
    let Some(mut rig) = Rig::start() else { return };
    rig.until_complete(&[0, 1, 2]);
    let (sender, pushed) = channel();
    let pushers = [0, 1, 2].map(|host| pusher(host, rig.caller(host), sender.clone()));
    let push_some = || {
        while pushed.try_recv().is_ok() {}
        (0..60).for_each(|_| pushed.recv_timeout(PATIENCE).unwrap());
    };

    push_some();
    let victim = rig.hosts[VICTIM].take().unwrap();
    VICTIM_IS.store(DYING, SeqCst);
    victim.signal(Signal::KILL);
    victim.end_status();
    VICTIM_IS.store(DEAD, SeqCst);
    for host in [0, 1] {
        rig.until(host, "comet_cluster_hosts", 1);
    }
    push_some();

    rig.nats.stop();
    for host in [0, 1] {
        rig.until(host, "comet_cluster_connected", 0);
    }
    push_some();
    rig.nats.restart();
    for host in [0, 1] {
        rig.until(host, "comet_cluster_connected", 1);
    }
    let living = [0, 1];
    rig.until_complete(&living);
    push_some();
    STOP.store(true, SeqCst);
    let records = pushers.map(|pusher| pusher.join().unwrap());

    let got = rig.end(&living);
    let got: Vec<Vec<BTreeSet<&str>>> =
        got.iter().map(|clients| clients.iter().map(|it| unique(it)).collect()).collect();
    records.iter().flatten().for_each(|record| check(record, &got));
    let named = |name: &str| {
        let ledgers = records.iter().flatten().filter_map(|record| record.ledger.as_ref());
        ledgers.filter(|ledger| ledger.unanswered.iter().any(|it| it == name)).count()
    };
    assert!(named("b") > 0 && named("c") > 0, "NATS was stopped, and c was killed");
}
