//! A server that is stopped for longer than its deadlines. It closes no client whose data arrived in time.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, process};

use comet_client::{Transport, op};
use rustls::version::TLS13;

use crate::fake_logic::FakeLogic;
use crate::h2::{half_a_push, reply};
use crate::peer::{Peer, message};
use crate::process::Server;
use crate::support::{BOTH, Metrics, PATIENCE, To, push, until};
use crate::tls::{Certificates, handshake, plain};

/// A stream, with TLS or without.
trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// A listener: its transport, its address, and the TLS settings of its clients, if it has TLS.
#[derive(Clone)]
struct Listener {
    transport: Transport,
    address: SocketAddr,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Listener {
    /// All listeners of `server`, whose certificate is one of `certificates`.
    fn all(server: &Server, certificates: &Certificates) -> Vec<Self> {
        let config = Arc::new(certificates.client(&[&TLS13]));
        let plain = BOTH.into_iter().zip([server.tcp, server.websocket]);
        let tls = BOTH.into_iter().zip(server.tls.expect("there is a certificate"));
        let listener = |tls: Option<_>| {
            move |(transport, address)| Self { transport, address, tls: tls.clone() }
        };
        plain.map(listener(None)).chain(tls.map(listener(Some(config)))).collect()
    }

    /// Makes `stream` an authenticated connection.
    fn live_on(&self, stream: TcpStream, token: &str) -> Peer<Box<dyn Stream>> {
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => Box::new(handshake(stream, config, "a.example").unwrap()),
        };
        let mut peer = Peer { stream, transport: self.transport };
        peer.upgrade();
        peer.authenticate(token);
        peer
    }
}

fn start_with(certificates: &Certificates, sets: &[&str]) -> Server {
    let own = certificates.sets();
    let all: Vec<_> = own.iter().map(String::as_str).chain(sets.iter().copied()).collect();
    Server::start(&all)
}

/// A stopped server. It continues when the value is dropped.
pub(crate) struct Stop<'server> {
    server: &'server Server,
    since: Instant,
}

impl<'server> Stop<'server> {
    pub(crate) fn new(server: &'server Server) -> Self {
        server.pause(true);
        Self { server, since: Instant::now() }
    }

    /// Waits until the stop has lasted for `time`, and continues the server.
    pub(crate) fn end_after(self, time: Duration) {
        thread::sleep(time.saturating_sub(self.since.elapsed()));
    }
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.server.pause(false);
    }
}

#[track_caller]
fn expect_none_closed(server: &Server, reason: &str) {
    assert_eq!(Metrics::read(server.stat).closed(reason), 0, "{reason}");
}

/// Every client sends before the first reply is read.
fn send_heartbeats(peers: &mut [Peer<Box<dyn Stream>>], sequence: i32) {
    peers.iter_mut().for_each(|peer| peer.send(op::HEARTBEAT, sequence, b""));
}

fn expect_replies(peers: &mut [Peer<Box<dyn Stream>>], sequence: i32) {
    for peer in peers {
        let reply = peer.recv();
        assert_eq!((reply.operation, reply.sequence), (op::HEARTBEAT_REPLY, sequence), "{reply:?}");
        assert!(i32::from_be_bytes(reply.body[..].try_into().unwrap()) > 0);
    }
}

#[test]
fn heartbeats_that_arrived_during_a_stop_count() {
    let certificates = Certificates::new(&["a.example"]);
    let server = start_with(&certificates, &["protocol.heartbeat=\"10s\""]);
    let listeners = Listener::all(&server, &certificates);
    let mut peers = Vec::new();
    for _ in 0..75 {
        for listener in &listeners {
            peers.push(listener.live_on(plain(listener.address), "1"));
        }
        send_heartbeats(&mut peers, 1);
        expect_replies(&mut peers, 1);
    }
    let stop = Stop::new(&server);
    send_heartbeats(&mut peers, 2);
    stop.end_after(Duration::from_secs(11));
    expect_replies(&mut peers, 2);
    expect_none_closed(&server, "heartbeat_timeout");
}

/// Each step of a handshake waits for the reply to the one before, and the server is late with each.
#[test]
fn handshakes_begun_during_a_stop_complete() {
    let certificates = Certificates::new(&["a.example"]);
    let server = start_with(&certificates, &["protocol.handshake_timeout=\"10s\""]);
    let listeners = Listener::all(&server, &certificates);
    let sockets: Vec<_> =
        listeners.iter().cycle().take(60).map(|listener| plain(listener.address)).collect();
    let accepted = || Metrics::read(server.stat).value("comet_connections");
    until("every socket to be accepted", || accepted() == 60);
    let stop = Stop::new(&server);
    let clients: Vec<_> = listeners
        .iter()
        .cloned()
        .cycle()
        .zip(sockets)
        .map(|(listener, socket)| thread::spawn(move || listener.live_on(socket, "1").online()))
        .collect();
    stop.end_after(Duration::from_secs(11));
    for client in clients {
        assert!(client.join().unwrap() > 0);
    }
    expect_none_closed(&server, "handshake_timeout");
}

#[test]
fn sends_that_can_continue_after_a_stop_do_not_time_out() {
    const SETS: [&str; 3] =
        ["tcp.sndbuf=65536", "protocol.svr_proto=8", "protocol.write_timeout=\"10s\""];
    let server = Server::start(&SETS);
    let mut peers: Vec<_> = (0..60).map(|_| server.live(Transport::Tcp, "1")).collect();
    let caller = comet::blocking_client::PushClient::connect(&server.grpc.to_string()).unwrap();
    until("every send to be stuck", || {
        let ledger = push(&caller, To::All, 5, &[0; 16 << 10]);
        ledger.dropped.get("outbox_full") == Some(&60)
    });
    let stop = Stop::new(&server);
    for peer in &mut peers {
        // The kernel sends the bytes that it has. It has no more until the server runs again.
        peer.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut bytes = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = peer.stream.read(&mut bytes) {
                break error;
            }
        };
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted), "{error}");
    }
    stop.end_after(Duration::from_secs(11));
    until("the rest to be sent", || {
        for peer in &mut peers {
            let _ = peer.stream.read(&mut vec![0; 1 << 20]);
        }
        Metrics::read(server.stat).value("comet_waiting") == 0
    });
    expect_none_closed(&server, "write_timeout");
}

#[test]
fn replies_of_logic_that_arrived_during_a_stop_count() {
    let logic = FakeLogic::start();
    let addrs = format!("logic.addrs=[{:?}]", logic.address.to_string());
    let server = Server::start(&[&addrs, "logic.timeout=\"10s\"", "logic.ping=\"100ms\""]);
    let is_up = format!("comet_logic_up{{address=\"{}\"}}", logic.address);
    until("logic to be connected", || Metrics::read(server.stat).value(&is_up) == 1);
    logic.hold(true);
    let mut peers: Vec<_> = (0..60)
        .map(|user: u32| {
            let mut peer = Peer::connect(server.tcp, Transport::Tcp);
            peer.send(op::AUTH, 1, user.to_string().as_bytes());
            peer
        })
        .collect();
    peers.iter().for_each(|_| drop(logic.connect()));
    let stop = Stop::new(&server);
    logic.hold(false);
    stop.end_after(Duration::from_secs(11));
    for peer in &mut peers {
        peer.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(peer.recv(), message(op::AUTH_REPLY, 1, b""));
    }
    expect_none_closed(&server, "logic_unavailable");
}

#[test]
fn request_bodies_that_arrived_during_a_stop_count() {
    let socket = env::temp_dir().join(format!("comet-stopped-{}.sock", process::id()));
    let http = format!("push.http=[\"unix:{}\"]", socket.display());
    let server = Server::start(&[&http, "push.timeout=\"10s\""]);
    let target = "/goim/push/keys?operation=5&keys=a";
    let head = format!("POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n");
    let mut callers: Vec<_> = (0..20)
        .map(|_| {
            let mut caller = UnixStream::connect(&socket).unwrap();
            caller.write_all(format!("{head}a").as_bytes()).unwrap();
            caller
        })
        .collect();
    let taken = || Metrics::read(server.stat).value("comet_api_request_bytes");
    until("every request to begin", || taken() >= 20);
    let stop = Stop::new(&server);
    callers.iter_mut().for_each(|caller| caller.write_all(b"b").unwrap());
    stop.end_after(Duration::from_secs(11));
    for caller in &mut callers {
        caller.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 15];
        caller.read_exact(&mut answer).unwrap();
        assert_eq!(str::from_utf8(&answer), Ok("HTTP/1.1 200 OK"));
    }
}

#[test]
fn calls_that_arrived_during_a_stop_count() {
    let server = Server::start(&["push.timeout=\"10s\""]);
    let mut callers: Vec<_> = (0..20).map(|_| half_a_push(server.grpc)).collect();
    let taken = || Metrics::read(server.stat).value("comet_api_request_bytes");
    // A call counts with at least 16 KiB.
    until("every call to begin", || taken() >= 20 * (16 << 10));
    let stop = Stop::new(&server);
    callers.iter_mut().for_each(|(caller, rest)| caller.write_all(rest).unwrap());
    stop.end_after(Duration::from_secs(11));
    for (caller, _) in &mut callers {
        caller.set_read_timeout(Some(PATIENCE)).unwrap();
        reply(caller);
    }
}
