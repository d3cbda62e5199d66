//! Clients with TLS stay connected across upgrades.

use std::io::{Read, Write};
use std::sync::Arc;

use comet_client::{Transport, op};
use rustls::version::{TLS12, TLS13};

use super::{Line, body, expect, token};
use crate::peer::{Peer, frame};
use crate::support::{BOTH, To, queued};
use crate::tls::{Certificates, Stream, handshake, plain};

/// The encrypted records of `plaintext`, which are not sent.
fn records(peer: &mut Peer<Stream>, plaintext: &[u8]) -> Vec<u8> {
    let connection = &mut peer.stream.conn;
    connection.writer().write_all(plaintext).unwrap();
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn a_partial_tls_record_is_completed_in_the_new_process() {
    let certificates = Certificates::new(&["a.example"]);
    let sets = certificates.sets();
    let mut line = Line::start(&[], &sets.iter().map(String::as_str).collect::<Vec<_>>());
    let addresses = line.server.tls.expect("the server has TLS");
    let mut clients = Vec::new();
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(certificates.client(&[version]));
        for (transport, address) in BOTH.into_iter().zip(addresses) {
            let stream = handshake(plain(address), &config, "a.example").unwrap();
            let mut peer = Peer { stream, transport };
            peer.upgrade();
            peer.authenticate(&token(clients.len() as u32));
            clients.push(peer);
        }
    }
    for round in 0..2 {
        let push = 2 * round;
        assert_eq!(line.push(To::Room("live://1"), &body(push)), queued(4));
        let mut late = Vec::new();
        for (at, client) in clients.iter_mut().enumerate() {
            let bytes = client.wrap(&frame(op::HEARTBEAT, 7, b""));
            let mut rest = records(client, &bytes);
            // Cut in the header of the record, in its body, and before the last byte of its tag.
            let cut = [3, 11, 20, rest.len() - 1][(at + round as usize) % 4];
            let half: Vec<u8> = rest.drain(..cut).collect();
            client.stream.sock.write_all(&half).unwrap();
            late.push(rest);
        }
        let said = line.upgrade();
        assert!(said.contains("4 connections go on after a pause of "), "{said}");
        assert!(said.contains(" 0 were closed"), "{said}");
        assert_eq!(line.push(To::Room("live://1"), &body(push + 1)), queued(4));
        for (client, rest) in clients.iter_mut().zip(late) {
            // The push before the upgrade arrived already, or arrives now.
            expect(client, push..push + 2);
            client.stream.sock.write_all(&rest).unwrap();
            assert_eq!(client.recv().operation, op::HEARTBEAT_REPLY);
        }
    }
    assert_eq!(line.metrics().value("comet_connections"), 4);
    line.metrics().assert_balanced();
    // New clients get the certificate as well.
    let config = Arc::new(certificates.client(&[&TLS13]));
    let stream = handshake(plain(addresses[0]), &config, "a.example").unwrap();
    Peer { stream, transport: Transport::Tcp }.authenticate(&token(9));
    for client in &mut clients {
        client.stream.conn.send_close_notify();
        assert_eq!(client.stream.read(&mut [0]).unwrap(), 0, "the server closes its side");
    }
}
