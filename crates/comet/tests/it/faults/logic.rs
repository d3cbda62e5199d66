//! Logic that does not do its work: new clients are told to come back, connected ones notice nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use comet::blocking_client::PushClient;
use comet_client::{Transport, op};
use rustls::version::TLS13;
use tonic::{Code, Status};

use super::Logic;
use super::wire::{Passage, Wire};
use crate::fake_logic::FakeLogic;
use crate::peer::Peer;
use crate::process::{Server, line_with};
use crate::support::{BOTH, Metrics, PATIENT, To, get, push, until};
use crate::tls::{Certificates, handshake, plain};

/// What does not depend on logic, for a client that is in room 1 and has logic's key.
fn serves(server: &Server, live: &mut Peer) {
    assert_eq!(live.ask(op::HEARTBEAT, 7, b"").operation, op::HEARTBEAT_REPLY);
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    for to in [To::Room("1"), To::User(41), To::All] {
        let ledger = push(&caller, to, 1000, b"pushed");
        assert_eq!(ledger.queued, 1, "{to:?}: {ledger:?}");
        assert_eq!(live.recv().body, b"pushed");
    }
    assert_eq!(get(server.stat, "/healthz").0, 200);
}

/// A server whose logic is behind `wire`, and a client that logic has let in.
fn start(address: SocketAddr) -> (Server, Peer) {
    start_with(address, &[])
}

fn start_with(address: SocketAddr, more: &[String]) -> (Server, Peer) {
    let logic = format!("logic.addrs=[\"{address}\"]");
    let sets = [&*logic, "logic.ping=\"100ms\"", "logic.timeout=\"5s\"", "logic.renew=\"100ms\""];
    let sets: Vec<&str> = sets.into_iter().chain(more.iter().map(String::as_str)).collect();
    let server = Server::start(&sets);
    until_up(&server, 1);
    let live = server.live(Transport::Tcp, "41");
    (server, live)
}

fn until_up(server: &Server, up: u64) {
    until("logic to be seen", || {
        let seen: u64 =
            Metrics::read(server.stat).by_label("comet_logic_up").iter().map(|(_, up)| up).sum();
        seen == up
    });
}

/// A new client is told so, and when to come back.
fn is_refused(server: &Server) {
    for transport in BOTH {
        let address = match transport {
            Transport::Tcp => server.tcp,
            Transport::WebSocket => server.websocket,
        };
        let mut peer = Peer::connect(address, transport);
        peer.upgrade();
        peer.send(op::AUTH, 1, b"42");
        let reason = peer.close_notice().reason;
        assert!(reason.contains("; retry_after_ms="), "{reason}");
    }
}

#[test]
fn logic_that_is_stopped_refuses_the_new_and_keeps_the_connected() {
    let logic = Logic::start(&[]);
    let (server, mut live) = start(logic.grpc);
    logic.process.pause(true);
    until_up(&server, 0);
    is_refused(&server);
    serves(&server, &mut live);
    logic.process.pause(false);
    until_up(&server, 1);
    server.live(Transport::WebSocket, "43");
}

#[test]
fn logic_behind_a_bad_wire_refuses_the_new_and_keeps_the_connected() {
    let logic = Logic::start(&[]);
    let wire = Wire::to(logic.grpc);
    let (server, mut live) = start(wire.address);
    for passage in [Passage::Cut, Passage::Slow, Passage::Garbage] {
        wire.set(passage);
        until_up(&server, 0);
        is_refused(&server);
        serves(&server, &mut live);
        wire.set(Passage::Open);
        until_up(&server, 1);
        // It is forgotten before the next.
        drop(server.live(Transport::WebSocket, "43"));
        until("it to be gone", || Metrics::read(server.stat).value("comet_connections") == 1);
    }
}

/// A client that reports and sleeps: it ends its side behind its last message, which waits for the answers to those before.
#[test]
fn the_messages_of_a_client_that_leaves_at_once_come_to_logic() {
    let logic = Logic::start(&[]);
    let certificates = Certificates::new(&["a.example"]);
    // Logic is not late in this one, but a busy machine may be.
    let sets = [certificates.sets(), vec![PATIENT.to_owned()]].concat();
    let (server, _live) = start_with(logic.grpc, &sets);
    let received = |count: u64| {
        let sample = "comet_calls_total{rpc=\"Receive\",code=\"Ok\"}";
        until("all of them to come", || Metrics::read(logic.stat).value(sample) == count);
    };
    for (transport, count) in BOTH.into_iter().zip([8, 16]) {
        let mut peer = server.live(transport, "43");
        report(&mut peer);
        peer.stream.shutdown(Shutdown::Write).unwrap();
        peer.stream.read_to_end(&mut Vec::new()).unwrap();
        received(count);
    }
    let config = Arc::new(certificates.client(&[&TLS13]));
    let address = server.tls.expect("there is a certificate")[0];
    let stream = handshake(plain(address), &config, "a.example").unwrap();
    let mut peer = Peer { stream, transport: Transport::Tcp };
    peer.authenticate("43");
    report(&mut peer);
    peer.stream.conn.send_close_notify();
    peer.stream.flush().unwrap();
    received(24);
}

/// Eight messages. Nobody may be there any more to read the answers, so these are not waited for.
fn report<S: Read + Write>(peer: &mut Peer<S>) {
    (0..8).for_each(|sequence| peer.send(op::SEND, sequence, b"report"));
}

/// Clients see neither addresses nor errors of what is behind comet.
#[test]
fn the_words_of_logic_that_fails_are_for_the_log() {
    let logic = FakeLogic::start();
    logic.script(|script| {
        let failure = || Status::new(Code::Internal, "dial tcp 10.0.0.5:6379: connection refused");
        script.connect = Box::new(move |_| Err(failure()));
    });
    let server = Server::start(&[&format!("logic.addrs=[\"{}\"]", logic.address)]);
    until_up(&server, 1);
    for (transport, address) in BOTH.into_iter().zip([server.tcp, server.websocket]) {
        let mut peer = Peer::connect(address, transport);
        peer.upgrade();
        peer.send(op::AUTH, 1, b"42");
        let notice = peer.close_notice();
        let retry = notice.reason.strip_prefix("logic has failed; retry_after_ms=");
        assert!(retry.is_some_and(|millis| millis.parse::<u32>().is_ok()), "{}", notice.reason);
        if let Some((code, text)) = notice.close {
            assert_eq!((code, text), (1013, format!("logic_unavailable: {}", notice.reason)));
        }
    }
    line_with(&server.log, "dial tcp 10.0.0.5:6379: connection refused");
}
