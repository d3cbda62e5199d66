//! Peers that vanish: their host is gone, without a FIN and without a reset.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use comet::blocking_client::PushClient;

use crate::process::Server;
use crate::support::{Metrics, To, push, until};

/// Clients that vanish.
const CLIENTS: usize = 4;

/// A network namespace with one link to this one.
struct Host {
    name: String,
    link: String,
    /// Of the link's ends: here and there.
    addresses: [String; 2],
}

impl Host {
    /// `None`, and a line in the log of the test, where there may be none.
    fn new() -> Option<Self> {
        static HOSTS: AtomicU32 = AtomicU32::new(0);
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        let id = (2 * std::process::id() + number) % 50_000;
        let network = format!("10.{}.{}", 200 + id / 256 / 256, id / 256 % 256);
        let first = id % 128 * 2;
        let host = Self {
            name: format!("comet-{id}"),
            link: format!("comet{id}"),
            addresses: [format!("{network}.{first}"), format!("{network}.{}", first + 1)],
        };
        let Self { name, link, addresses: [here, there] } = &host;
        let commands = [
            format!("netns add {name}"),
            format!("link add {link} type veth peer name eth0 netns {name}"),
            format!("addr add {here}/31 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {there}/31 dev eth0"),
            format!("-n {name} link set eth0 up"),
        ];
        if commands.iter().all(|command| ip(command)) {
            return Some(host);
        }
        eprintln!("SKIPPED: no network namespace may be made, so no peer of one vanishes");
        None
    }

    /// Runs the client of the program there.
    fn listen(&self, port: u16, number: usize) -> Child {
        let (address, user) = (format!("{}:{port}", self.addresses[0]), number.to_string());
        let comet = [env!("CARGO_BIN_EXE_comet"), "listen", "--room", "live://1"];
        self.run(&[&comet[..], &["--user", &user, "--addr", &address]].concat())
    }

    /// Runs a program there.
    fn run(&self, program: &[&str]) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Nothing comes through any more.
    fn vanish(&self) {
        assert!(ip(&format!("link set {} down", self.link)));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.link));
        ip(&format!("netns del {}", self.name));
    }
}

/// Whether `ip` has done it.
fn ip(command: &str) -> bool {
    let mut ip = Command::new("ip");
    ip.args(command.split(' ')).stderr(Stdio::null());
    ip.status().is_ok_and(|status| status.success())
}

#[test]
fn peers_that_vanish_are_closed_by_their_deadlines_and_every_push_is_counted() {
    let Some(host) = Host::new() else { return };
    let bind = format!("tcp.bind=[\"{}:0\"]", host.addresses[0]);
    let server = Server::start(&[
        &bind,
        // `comet listen` beats more seldom: they have to vanish before it is over.
        "protocol.heartbeat=\"30s\"",
        // Before that they have to read, on a busy machine too.
        "protocol.write_timeout=\"5s\"",
        // Full soon, so that some of the pushes wait.
        "tcp.sndbuf=4096",
    ]);
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|number| host.listen(server.tcp.port(), number)).collect();
    let metrics = || Metrics::read(server.stat);
    until("clients to come", || metrics().value("comet_live") == CLIENTS as u64);
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    let pushed = |count: usize| {
        for _ in 0..count {
            let ledger = push(&caller, To::Room("live://1"), 1000, &[b'x'; 10_000]);
            let dropped: u64 = ledger.dropped.values().sum();
            assert_eq!(ledger.matched, ledger.queued + dropped);
        }
    };
    pushed(3);
    host.vanish();
    pushed(20);
    until("them to be closed", || metrics().value("comet_connections") == 0);
    let is = metrics();
    let late = is.closed("write_timeout") + is.closed("heartbeat_timeout");
    assert_eq!(late, CLIENTS as u64, "{:?}", is.by_label("comet_closed_total"));
    assert_eq!(is.value("comet_waiting"), 0);
    assert!(is.value("comet_lost_total") > 0);
    is.assert_balanced();
    for client in &mut clients {
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

/// The client of an event stream owes nothing, and its outbox is empty: only the kernel can find that it is gone.
#[test]
fn the_client_of_an_event_stream_that_vanishes_is_closed_by_the_kernel() {
    let Some(host) = Host::new() else { return };
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        return eprintln!("SKIPPED: no curl");
    }
    let bind = format!("websocket.bind=[\"{}:0\"]", host.addresses[0]);
    let server = Server::start(&[&bind, "protocol.heartbeat=\"5s\""]);
    let url = format!("http://{}/sse?token=7&rooms=a", server.websocket);
    let mut client = host.run(&["curl", "--silent", "--no-buffer", &url]);
    let metrics = || Metrics::read(server.stat);
    until("the client to come", || metrics().value("comet_further_rooms") == 1);
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    host.vanish();
    assert_eq!(push(&caller, To::Room("a"), 1000, b"x").queued, 1);
    until("it to be closed", || metrics().value("comet_connections") == 0);
    let is = metrics();
    assert_eq!(is.closed("peer_closed"), 1, "{:?}", is.by_label("comet_closed_total"));
    is.assert_balanced();
    client.kill().unwrap();
    client.wait().unwrap();
}
