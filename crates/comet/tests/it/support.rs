//! A server of two cores on free ports, and helpers for its connections, pushes and metrics.

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

/// The longest wait for an event before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Most tests run over both transports.
pub(crate) const BOTH: [Transport; 2] = [Transport::Tcp, Transport::WebSocket];

/// Every listener on loopback, at a port that the kernel chooses.
pub(crate) const FREE_PORTS: [&str; 6] = [
    r#"tcp.bind=["127.0.0.1:0"]"#,
    r#"websocket.bind=["127.0.0.1:0"]"#,
    r#"push.grpc=["127.0.0.1:0"]"#,
    r#"push.http=["127.0.0.1:0"]"#,
    r#"monitor.stat=["127.0.0.1:0"]"#,
    r#"monitor.pprof=["127.0.0.1:0"]"#,
];

/// Rings count as locked memory, whose limit is often 8 MiB a user. The kernel releases the memory of a server some time
/// after its end.
pub(crate) const SMALL_RING: &str = "limits.ring_entries=256";
/// On a loaded machine logic may take longer than the default timeout.
pub(crate) const PATIENT: &str = "logic.timeout=\"20s\"";

/// The first two CPUs the tests may run on, as a list for `--cores`.
pub(crate) fn two_cores() -> String {
    let cpus = comet::machine().unwrap().cpus;
    assert!(cpus.len() >= 2, "a server of two cores needs two CPUs, here are {cpus:?}");
    format!("{},{}", cpus[0], cpus[1])
}

/// A configuration with two cores, free ports, small rings and `sets`.
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

/// The number of servers that run at once, in this process or as processes of their own, since all share two CPUs. A test that
/// holds a permit does not wait for another one.
const SERVERS_MAX: usize = 3;

static SERVERS: Mutex<usize> = Mutex::new(0);
static SERVER_ENDED: Condvar = Condvar::new();

/// The permit to run a server.
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

/// Calls `done` until it returns true. Each call sends the server a request, so the wait for the reply paces the loop.
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "still waiting for {what}");
        // Other tests need the CPUs, too.
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a scene up to five times, until it is over before a deadline of the server. It returns false if the machine was too
/// slow, so that the result means nothing.
#[track_caller]
pub(crate) fn until_in_time(mut scene: impl FnMut() -> bool) {
    let was_in_time = (0..5).any(|_| scene());
    assert!(was_in_time, "the scene was too slow for its deadline each time");
}

/// Waits until `counter` has grown by `more`.
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

/// Sets the flag on drop, so that threads end even if the test fails.
pub(crate) struct SetOnDrop(pub(crate) Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The socket address of an API that has no Unix socket.
#[track_caller]
pub(crate) fn ip(address: &Address) -> SocketAddr {
    address.socket().unwrap_or_else(|| panic!("{address} is no IP address"))
}

/// The target of a push.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To<'a> {
    Keys(&'a [&'a str]),
    User(i64),
    Room(&'a str),
    All,
}

/// The ledger of a push that matched `queued` connections, all of which took it.
pub(crate) fn queued(queued: u64) -> Ledger {
    Ledger { matched: queued, queued, ..Ledger::default() }
}

/// The same ledger with `dropped` more connections, dropped for `reason`.
pub(crate) fn dropped(ledger: Ledger, reason: &str, dropped: u64) -> Ledger {
    let mut ledger = Ledger { matched: ledger.matched + dropped, ..ledger };
    ledger.dropped.insert(reason.to_owned(), dropped);
    ledger
}

pub(crate) fn push(caller: &PushClient, to: To<'_>, operation: i32, body: &[u8]) -> Ledger {
    try_push(caller, to, operation, body).unwrap_or_else(|error| panic!("{to:?}: {error}"))
}

/// Pushes until one reaches `clients` connections: a host may not be subscribed yet, and a busy one may be late.
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
    (status, String::from_utf8(body).expect("a page is UTF-8"))
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

/// The same with additional headers, each with its line end.
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

/// Every sample of `/metrics`, summed over the cores. Each core is read at a moment of its own.
pub(crate) struct Metrics(HashMap<String, u64>);

impl Metrics {
    pub(crate) fn read(stat: SocketAddr) -> Self {
        let mut page = String::new();
        // A page leaves out the samples of a core that answers late, which happens on a loaded machine.
        until("the cores to answer", || {
            let (status, text) = get(stat, "/metrics");
            page = text;
            let is_silent =
                |line: &str| line.starts_with("comet_core_answers{") && line.ends_with(" 0");
            status == 200 && !page.lines().any(is_silent)
        });
        let samples = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
            // Samples that are not integers are times, which no test reads.
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    #[track_caller]
    pub(crate) fn value(&self, sample: &str) -> u64 {
        *self.0.get(sample).unwrap_or_else(|| panic!("no {sample} in /metrics"))
    }

    /// The counters and histograms of comet that are smaller or missing in `later`.
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

    /// The samples of the family `name`, by the value of their label, without zeros.
    pub(crate) fn by_label(&self, name: &str) -> Vec<(String, u64)> {
        let of_family = self.0.iter().filter_map(|(sample, value)| {
            let label = sample.strip_prefix(name)?.strip_prefix('{')?.split('"').nth(1)?;
            (*value > 0).then(|| (label.to_owned(), *value))
        });
        let mut family: Vec<_> = of_family.collect();
        family.sort();
        family
    }

    /// Checks the sums that hold at any moment: nothing is lost without being counted.
    pub(crate) fn assert_balanced(&self) {
        let dropped: u64 = self.by_label("comet_dropped_total").iter().map(|(_, n)| n).sum();
        let [matched, queued, sent, lost, superseded, unsent] =
            ["matched", "queued", "sent", "lost", "superseded", "unsent"]
                .map(|name| self.value(&format!("comet_{name}_total")));
        let waiting = self.value("comet_waiting");
        assert_eq!(matched, queued + dropped, "matched = queued + dropped");
        let ended = sent + lost + superseded + unsent;
        assert_eq!(queued, ended + waiting, "queued = sent + lost + superseded + unsent + waiting");
    }
}

/// A running server. On drop it drains, and its counters are checked.
pub(crate) struct Server {
    app: Option<App>,
    caller: Option<PushClient>,
    _permit: Option<Permit>,
}

impl Server {
    pub(crate) fn start(sets: &[&str]) -> Self {
        Self::start_with(Some(Permit::wait()), sets)
    }

    /// Another server in a test that has one already. It needs no permit.
    pub(crate) fn start_another(sets: &[&str]) -> Self {
        Self::start_with(None, sets)
    }

    fn start_with(permit: Option<Permit>, sets: &[&str]) -> Self {
        let app = App::start(&config(sets)).unwrap_or_else(|error| panic!("{error}"));
        let caller = PushClient::connect(&app.grpc_addrs()[0].to_string()).unwrap();
        Self { app: Some(app), caller: Some(caller), _permit: permit }
    }

    /// A server whose push API requires `token`.
    pub(crate) fn start_locked(sets: &[&str], token: &str) -> Self {
        let permit = Permit::wait();
        let app = App::start(&config(sets)).unwrap_or_else(|error| panic!("{error}"));
        let address = app.grpc_addrs()[0].to_string();
        let caller = PushClient::connect(&address).unwrap().with_token(token.as_bytes()).unwrap();
        Self { app: Some(app), caller: Some(caller), _permit: Some(permit) }
    }

    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().expect("the server is not drained")
    }

    pub(crate) fn reload(&mut self, newer: &Config) -> Result<Reloaded, String> {
        self.app.as_mut().expect("the server is not drained").reload(newer)
    }

    /// The address for clients of `transport`.
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
        self.caller.as_ref().expect("the server is not drained")
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

    /// The number of open connections of each core.
    pub(crate) fn connections(&self) -> [u64; 2] {
        let metrics = self.metrics();
        [0, 1].map(|core| metrics.value(&format!("comet_core_connections{{core=\"{core}\"}}")))
    }

    /// A connection of `transport` that the kernel assigned to `core`. Nothing is sent on it yet.
    /// No other client may connect meanwhile.
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

    /// Drains the server. Every core must finish in time.
    pub(crate) fn drain(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        let Some(app) = self.app.take() else { return };
        Metrics::read(ip(&app.stat_addrs()[0])).assert_balanced();
        // A caller whose runtime is idle does not close its connection, and the server would wait a second for that.
        self.caller = None;
        let ended = app.drain();
        assert_eq!(ended.drained, ended.cores, "cores drained in time");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After a failure there is nothing to check, and a second panic would hide the first one.
        if !thread::panicking() {
            self.finish();
        }
    }
}

/// The bodies of the next messages, up to and with the one equal to `last`.
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
        Ok(None) => panic!("no message arrived"),
        Err(error) => panic!("{error}"),
    }
}
