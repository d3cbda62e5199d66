//! A server of two cores on free ports, and what tests ask of it: connections, pushes, metrics.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use comet::blocking_client::{Ledger, PushClient, PushError};
use comet::{App, Reloaded};
use comet_client::{Client, Options, Transport};
use comet_config::{Config, Source};
use comet_control::Address;

/// Longest wait for something that has to happen, before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What most tests are run over.
pub(crate) const BOTH: [Transport; 2] = [Transport::Tcp, Transport::WebSocket];

/// Every listener on loopback, at a port the kernel picks.
pub(crate) const FREE_PORTS: [&str; 6] = [
    r#"tcp.bind=["127.0.0.1:0"]"#,
    r#"websocket.bind=["127.0.0.1:0"]"#,
    r#"push.grpc=["127.0.0.1:0"]"#,
    r#"push.http=["127.0.0.1:0"]"#,
    r#"monitor.stat=["127.0.0.1:0"]"#,
    r#"monitor.pprof=["127.0.0.1:0"]"#,
];

/// Rings count as locked memory, of which a user often has 8 MiB, and the kernel gives that of a server
/// back only a while after its end.
pub(crate) const SMALL_RING: &str = "limits.ring_entries=256";
/// On a loaded machine logic may take longer than a server waits for it otherwise.
pub(crate) const PATIENT: &str = "logic.timeout=\"20s\"";

/// The first two CPUs the tests may run on, as a list for `--cores`.
pub(crate) fn two_cores() -> String {
    let cpus = comet::machine().unwrap().cpus;
    assert!(cpus.len() >= 2, "a server of two cores needs two CPUs, here are {cpus:?}");
    format!("{},{}", cpus[0], cpus[1])
}

/// Two cores, free ports, small rings, and `sets` over the defaults.
pub(crate) fn config(sets: &[&str]) -> Config {
    let sets: Vec<_> = FREE_PORTS
        .iter()
        .chain([&SMALL_RING, &PATIENT])
        .chain(sets)
        .map(|set| (*set).to_owned())
        .collect();
    let source = Source { sets: &sets, cores: Some(&two_cores()), ..Source::default() };
    comet_config::load(&source, &comet::machine().unwrap())
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Servers that run at once, of this process and as processes of their own: all share two CPUs. No test
/// that holds one waits for another.
const SERVERS_MAX: usize = 3;

static SERVERS: Mutex<usize> = Mutex::new(0);
static SERVER_ENDED: Condvar = Condvar::new();

/// Leave to run a server.
pub(crate) struct Permit(());

impl Permit {
    pub(crate) fn wait() -> Self {
        let servers = SERVERS.lock().unwrap();
        let mut servers =
            SERVER_ENDED.wait_while(servers, |servers| *servers == SERVERS_MAX).unwrap();
        *servers += 1;
        Self(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *SERVERS.lock().unwrap() -= 1;
        SERVER_ENDED.notify_one();
    }
}

/// Calls `done` again and again until it says yes; each call asks the server something, so this is no
/// busier than its answers.
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "still waiting for {what}");
        // Tests share few cores.
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a scene that has to be over before a deadline of the server is, until the machine was in time for it. `false` from it: the
/// machine was late, and nothing is known.
#[track_caller]
pub(crate) fn until_in_time(mut scene: impl FnMut() -> bool) {
    let was_in_time = (0..5).any(|_| scene());
    assert!(was_in_time, "a deadline was over each time, or its server is late by itself");
}

/// Waits until `counter` has grown so far.
#[track_caller]
pub(crate) fn until_more(what: &str, counter: &AtomicU64, more: u64) {
    let (begin, before) = (Instant::now(), counter.load(SeqCst));
    loop {
        let grown = counter.load(SeqCst) - before;
        if grown >= more {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{grown} of {more} {what} from {before} on");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sets the flag when it is dropped, so that the threads of a test that fails end as well.
pub(crate) struct SetOnDrop(pub(crate) Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Where an API listens that has no Unix socket.
#[track_caller]
pub(crate) fn ip(address: &Address) -> SocketAddr {
    address.socket().unwrap_or_else(|| panic!("{address} is no IP address"))
}

/// Whom to push to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To<'a> {
    Keys(&'a [&'a str]),
    User(i64),
    Room(&'a str),
    All,
}

/// A ledger in which `queued` connections got the push and nobody else was meant.
pub(crate) fn queued(queued: u64) -> Ledger {
    Ledger { matched: queued, queued, ..Ledger::default() }
}

/// A ledger that also has `dropped` connections under `reason`.
pub(crate) fn dropped(ledger: Ledger, reason: &str, dropped: u64) -> Ledger {
    let mut ledger = Ledger { matched: ledger.matched + dropped, ..ledger };
    ledger.dropped.insert(reason.to_owned(), dropped);
    ledger
}

pub(crate) fn push(caller: &PushClient, to: To<'_>, operation: i32, body: &[u8]) -> Ledger {
    try_push(caller, to, operation, body).unwrap_or_else(|error| panic!("{to:?}: {error}"))
}

/// Pushes until one reaches so many connections: a host may not be subscribed yet, and a busy one may be late.
#[track_caller]
pub(crate) fn until_reaches(clients: u64, caller: &PushClient, to: To<'_>, body: &[u8]) {
    until(&format!("a push to {to:?} to reach {clients}"), || {
        try_push(caller, to, 5, body).is_ok_and(|ledger| ledger.queued == clients)
    });
}

pub(crate) fn try_push(
    caller: &PushClient,
    to: To<'_>,
    operation: i32,
    body: &[u8],
) -> Result<Ledger, PushError> {
    let ledger = match to {
        To::Keys(keys) => {
            caller.push_keys(keys.iter().map(|key| (*key).to_owned()).collect(), operation, body)
        }
        To::User(user) => caller.push_users(vec![user], operation, body),
        To::Room(room) => caller.push_room(room.to_owned(), operation, body),
        To::All => caller.broadcast(operation, body, None),
    };
    ledger.map(|ledger| ledger.expect("comet sends a ledger"))
}

/// Status and body of a GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, body) = http(address, "GET", path, "");
    (status, String::from_utf8(body).expect("a page is text"))
}

/// Status and body of a request.
pub(crate) fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: impl AsRef<[u8]>,
) -> (u16, Vec<u8>) {
    http_with(address, method, path, "", body)
}

/// The same with `headers`, each with the end of its line.
pub(crate) fn http_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: impl AsRef<[u8]>,
) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = body.as_ref();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("an answer has a head");
    let body = answer.split_off(head + 4);
    let status = str::from_utf8(&answer).ok().and_then(|head| head.split(' ').nth(1)?.parse().ok());
    (status.expect("a status line"), body)
}

/// Every sample of `/metrics`, summed over the cores at one moment of each.
pub(crate) struct Metrics(HashMap<String, u64>);

impl Metrics {
    pub(crate) fn read(stat: SocketAddr) -> Self {
        let mut page = String::new();
        // On a loaded machine a core may take longer than a page waits for it, and its samples are left out.
        until("the cores to answer", || {
            let (status, text) = get(stat, "/metrics");
            page = text;
            let is_silent =
                |line: &str| line.starts_with("comet_core_answers{") && line.ends_with(" 0");
            status == 200 && !page.lines().any(is_silent)
        });
        let samples = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
            // Times are not whole, and nobody asks for them here.
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    #[track_caller]
    pub(crate) fn value(&self, sample: &str) -> u64 {
        *self.0.get(sample).unwrap_or_else(|| panic!("no {sample} in /metrics"))
    }

    /// Samples of counters and histograms of comet that are less in `later`, or missing there.
    pub(crate) fn fallen(&self, later: &Self) -> Vec<String> {
        let is_counter = |sample: &str| {
            let name = sample.split('{').next().unwrap_or_default();
            let ends = ["_total", "_bucket", "_count"];
            name.starts_with("comet_") && ends.iter().any(|end| name.ends_with(end))
        };
        let counters = self.0.iter().filter(|(sample, _)| is_counter(sample));
        let fallen = counters.filter(|(sample, value)| later.0.get(*sample) < Some(*value));
        fallen
            .map(|(sample, value)| format!("{sample} {value} {:?}", later.0.get(sample)))
            .collect()
    }

    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.value(&format!("comet_closed_total{{reason=\"{reason}\"}}"))
    }

    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.value(&format!("comet_dropped_total{{reason=\"{reason}\"}}"))
    }

    /// Everything of the family `name`, by its label's value; zeros left out.
    pub(crate) fn by_label(&self, name: &str) -> Vec<(String, u64)> {
        let of_family = self.0.iter().filter_map(|(sample, value)| {
            let label = sample.strip_prefix(name)?.strip_prefix('{')?.split('"').nth(1)?;
            (*value > 0).then(|| (label.to_owned(), *value))
        });
        let mut family: Vec<_> = of_family.collect();
        family.sort();
        family
    }

    /// What holds at any moment, whatever happened: nothing is lost without being counted.
    pub(crate) fn assert_balanced(&self) {
        let dropped: u64 = self.by_label("comet_dropped_total").iter().map(|(_, n)| n).sum();
        let [matched, queued, sent, lost, superseded, unsent] =
            ["matched", "queued", "sent", "lost", "superseded", "unsent"]
                .map(|name| self.value(&format!("comet_{name}_total")));
        let waiting = self.value("comet_waiting");
        assert_eq!(matched, queued + dropped, "matched = queued + dropped");
        let ended = sent + lost + superseded + unsent;
        assert_eq!(queued, ended + waiting, "what was queued is somewhere");
    }
}

/// A running server. Dropped, it drains, and its counters must balance.
pub(crate) struct Server {
    app: Option<App>,
    caller: Option<PushClient>,
    _permit: Option<Permit>,
}

impl Server {
    pub(crate) fn start(sets: &[&str]) -> Self {
        Self::start_with(Some(Permit::wait()), sets)
    }

    /// Another server of a test that has one. It counts as a part of that.
    pub(crate) fn start_another(sets: &[&str]) -> Self {
        Self::start_with(None, sets)
    }

    fn start_with(permit: Option<Permit>, sets: &[&str]) -> Self {
        let app = App::start(&config(sets)).unwrap_or_else(|error| panic!("{error}"));
        let caller = PushClient::connect(&app.grpc_addrs()[0].to_string()).unwrap();
        Self { app: Some(app), caller: Some(caller), _permit: permit }
    }

    /// One whose push API asks for `token`.
    pub(crate) fn start_locked(sets: &[&str], token: &str) -> Self {
        let permit = Permit::wait();
        let app = App::start(&config(sets)).unwrap_or_else(|error| panic!("{error}"));
        let address = app.grpc_addrs()[0].to_string();
        let caller = PushClient::connect(&address).unwrap().with_token(token.as_bytes()).unwrap();
        Self { app: Some(app), caller: Some(caller), _permit: Some(permit) }
    }

    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().expect("until it is drained")
    }

    pub(crate) fn reload(&mut self, newer: &Config) -> Result<Reloaded, String> {
        self.app.as_mut().expect("until it is drained").reload(newer)
    }

    /// Where clients of `transport` connect to.
    pub(crate) fn address(&self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::Tcp => self.app().tcp_addrs()[0],
            Transport::WebSocket => self.app().websocket_addrs()[0],
        }
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        ip(&self.app().grpc_addrs()[0])
    }

    pub(crate) fn http(&self) -> SocketAddr {
        ip(&self.app().http_addrs()[0])
    }

    pub(crate) fn stat(&self) -> SocketAddr {
        ip(&self.app().stat_addrs()[0])
    }

    pub(crate) fn debug(&self) -> SocketAddr {
        ip(&self.app().debug_addrs()[0])
    }

    /// An authenticated client.
    pub(crate) fn client(&self, transport: Transport, token: &str) -> Client {
        let address = self.address(transport).to_string();
        let options = match transport {
            Transport::Tcp => Options::tcp(address, token),
            Transport::WebSocket => Options::websocket(address, "/sub", token),
        };
        options.timeout(PATIENCE).connect().unwrap_or_else(|error| panic!("{token}: {error}"))
    }

    pub(crate) fn push(&self, to: To<'_>, operation: i32, body: &[u8]) -> Ledger {
        push(self.caller(), to, operation, body)
    }

    /// A connection to the push API.
    pub(crate) fn caller(&self) -> &PushClient {
        self.caller.as_ref().expect("until it is drained")
    }

    pub(crate) fn metrics(&self) -> Metrics {
        Metrics::read(self.stat())
    }

    pub(crate) fn metric(&self, sample: &str) -> u64 {
        self.metrics().value(sample)
    }

    /// Waits until `sample` is `value`.
    #[track_caller]
    pub(crate) fn until(&self, sample: &str, value: u64) {
        let mut last = 0;
        until(&format!("{sample} to be {value}"), || {
            last = self.metric(sample);
            last == value
        });
    }

    /// Waits until `sample` is not 0.
    #[track_caller]
    pub(crate) fn until_some(&self, sample: &str) {
        until(&format!("{sample} to be more than 0"), || self.metric(sample) > 0);
    }

    /// Connections open, by core.
    pub(crate) fn connections(&self) -> [u64; 2] {
        let metrics = self.metrics();
        [0, 1].map(|core| metrics.value(&format!("comet_core_connections{{core=\"{core}\"}}")))
    }

    /// A connection of `transport` that the kernel steered to `core`; nothing is said on it yet.
    /// Nobody else may connect meanwhile.
    pub(crate) fn connect_on(&self, core: usize, transport: Transport) -> TcpStream {
        let before = self.connections();
        let total: u64 = before.iter().sum();
        loop {
            let stream = TcpStream::connect(self.address(transport)).unwrap();
            self.until("comet_connections", total + 1);
            if self.connections()[core] > before[core] {
                return stream;
            }
            drop(stream);
            self.until("comet_connections", total);
        }
    }

    /// Drains the server. Every core has to be done with it in time.
    pub(crate) fn drain(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        let Some(app) = self.app.take() else { return };
        Metrics::read(ip(&app.stat_addrs()[0])).assert_balanced();
        // A caller that nobody drives does not close its end, and the server waits a second for that.
        self.caller = None;
        let ended = app.drain();
        assert_eq!(ended.drained, ended.cores, "cores drained in time");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After a failure there is nothing to check, and a second panic would hide the first.
        if !thread::panicking() {
            self.finish();
        }
    }
}

/// What the client gets up to and with a message whose body is `last`, as bodies.
#[track_caller]
pub(crate) fn received_until(client: &mut Client, last: &[u8]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    loop {
        bodies.push(received(client));
        if bodies.last().is_some_and(|body| body == last) {
            return bodies;
        }
    }
}

/// The body of the next message.
#[track_caller]
pub(crate) fn received(client: &mut Client) -> Vec<u8> {
    match client.receive_timeout(PATIENCE) {
        Ok(Some(message)) => message.body,
        Ok(None) => panic!("no message came"),
        Err(error) => panic!("{error}"),
    }
}
