//! TLS sessions and tickets across an upgrade: keys are updated before and after it, tampered records end only their own
//! connection, and tickets of the former process are accepted.

use std::io::{Read, Write};
use std::sync::Arc;

use comet_client::{Transport, op};
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};

use super::{Line, token};
use crate::peer::{Peer, frame, message};
use crate::process::line_with;
use crate::support::{To, queued, until};
use crate::tls::{Certificates, Stream, handshake, plain};
use crate::tls_record::Program;
use crate::tls_tampered::{CASES, expect_alert};

fn start(certificates: &Certificates) -> Line {
    let mut sets = certificates.sets();
    sets.push("protocol.body_max=\"1MiB\"".to_owned());
    Line::start(&[], &sets.iter().map(String::as_str).collect::<Vec<_>>())
}

fn live(line: &Line, config: &Arc<ClientConfig>, user: u32) -> Peer<Stream> {
    let address = line.server.tls.expect("the server has TLS")[0];
    let stream = handshake(plain(address), config, "a.example").unwrap();
    let mut peer = Peer { stream, transport: Transport::Tcp };
    peer.authenticate(&token(user));
    peer
}

/// Both sides send, in one record and in many.
#[track_caller]
fn talk<S: Read + Write>(line: &Line, peer: &mut Peer<S>, user: u32) {
    let body: Vec<u8> = (0..100_000_u32).map(|at| (at * 7 + at / 251) as u8).collect();
    for body in [&b"hello"[..], &body] {
        assert_eq!(line.push(To::User(user.into()), body), queued(1));
        assert!(peer.recv() == message(5, 0, body), "the body differs");
        peer.send(4, 9, body);
        assert_eq!(peer.recv(), message(4, 9, b""));
    }
}

#[test]
fn openssl_updates_keys_before_and_after() {
    let certificates = Certificates::new(&["a.example"]);
    let mut line = start(&certificates);
    let address = line.server.tls.expect("the server has TLS")[0];
    let Some(program) = Program::openssl(address, &certificates, "-tls1_3") else { return };
    let mut peer = Peer { stream: program, transport: Transport::Tcp };
    peer.authenticate(&token(7));
    talk(&line, &mut peer, 7);
    for _ in 0..3 {
        // `k`: the client updates its own key. `K`: it also requests an update of the server's key.
        for command in [b"k\n", b"K\n"] {
            peer.write(command);
            line_with(&peer.stream.log, ">>> TLS 1.3, Handshake [length 0005], KeyUpdate");
            if command == b"K\n" {
                line_with(&peer.stream.log, "<<< TLS 1.3, Handshake [length 0005], KeyUpdate");
            }
            talk(&line, &mut peer, 7);
        }
        let said = line.upgrade();
        assert!(said.contains("1 connections go on after a pause of "), "{said}");
        talk(&line, &mut peer, 7);
    }
    peer.write(b"Q\n");
    peer.expect_end();
    until("the connection to be closed", || line.metrics().value("comet_connections") == 0);
    assert_eq!(line.metrics().closed("peer_closed"), 1);
    line.metrics().assert_balanced();
}

#[test]
fn tampered_records_end_only_their_own_connection_after_an_upgrade() {
    let certificates = Certificates::new(&["a.example"]);
    let mut line = start(&certificates);
    let configs = [&TLS12, &TLS13].map(|version| Arc::new(certificates.client(&[version])));
    let mut bystanders = [1, 2].map(|user| live(&line, &configs[user as usize - 1], user));
    let mut peers: Vec<_> = (0..2 * CASES.len())
        .map(|at| live(&line, &configs[at / CASES.len()], 10 + at as u32))
        .collect();
    line.upgrade();
    // A valid record is accepted after the upgrade, so the next ones are refused because of the change.
    for peer in &mut peers {
        peer.send(op::HEARTBEAT, 4, b"");
        assert_eq!(peer.recv().operation, op::HEARTBEAT_REPLY);
    }
    for (at, peer) in peers.iter_mut().enumerate() {
        expect_alert(peer, CASES[at % CASES.len()], &format!("case {at}"));
    }
    until("the connections to be closed", || line.metrics().value("comet_connections") == 2);
    assert_eq!(line.metrics().closed("tls_failed"), 2 * CASES.len() as u64);
    for (user, peer) in (1..).zip(&mut bystanders) {
        talk(&line, peer, user);
    }
    line.metrics().assert_balanced();
}

/// Each process accepts the tickets of earlier processes. The former process issued the first one.
#[test]
fn tls_sessions_resume_in_the_new_process() {
    let certificates = Certificates::new(&["a.example"]);
    let mut line = start(&certificates);
    for version in [&TLS12, &TLS13] {
        let mut config = certificates.client(&[version]);
        config.resumption = Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let connect = |line: &Line| {
            let mut peer = live(line, &config, 7);
            // The ticket of TLS 1.3 comes after the handshake.
            peer.stream.sock.write_all(&[]).unwrap();
            talk(line, &mut peer, 7);
            let kind = peer.stream.conn.handshake_kind().unwrap();
            let heartbeat = frame(op::HEARTBEAT, 1, b"");
            peer.stream.write_all(&heartbeat).unwrap();
            assert_eq!(peer.recv().operation, op::HEARTBEAT_REPLY);
            kind
        };
        assert_ne!(connect(&line), HandshakeKind::Resumed);
        for round in 0..2 {
            line.upgrade();
            assert_eq!(connect(&line), HandshakeKind::Resumed, "{version:?}, round {round}");
        }
        // A new client configuration has no ticket.
        let fresh = Arc::new(certificates.client(&[version]));
        let peer = live(&line, &fresh, 8);
        assert_ne!(peer.stream.conn.handshake_kind().unwrap(), HandshakeKind::Resumed);
    }
}
