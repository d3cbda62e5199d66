//! Clients inside TLS.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_core::{BlockedNetwork, Blocklist, CloseReason, Limits, Millis};
use comet_handover::feature;
use comet_proto::op;
use rustls::{HandshakeKind, SupportedCipherSuite};

use crate::rig::{LIMIT, PUSHES, Rig, expect_pushes, frame, limits, listen, read, stalled};
use crate::tls_client::{Certificate, Client, OpenSsl, beat, connect, is_tls13, records, suites};

/// The time after which a key of session tickets is replaced.
const TICKET_KEY_ROTATION: Duration = Duration::from_secs(6 * 3600);

/// Clients that read nothing, with input under way.
struct UnderWay {
    clients: Vec<Client>,
    /// The rest of a record of the second client.
    rest: Vec<u8>,
    /// The second record of the third client. The first half of its frame is in the record before it.
    late: Vec<u8>,
}

impl UnderWay {
    fn begin(rig: &Rig, suite: SupportedCipherSuite, connect: impl Fn(usize) -> Client) -> Self {
        let mut clients = stalled(rig, connect);
        let heartbeat = frame(op::HEARTBEAT, b"");
        let mut rest = records(&mut clients[1], &heartbeat);
        let half: Vec<u8> = rest.drain(..11).collect();
        clients[1].sock.write_all(&half).unwrap();
        let (begin, end) = heartbeat.split_at(7);
        let record = records(&mut clients[2], begin);
        clients[2].sock.write_all(&record).unwrap();
        let late = records(&mut clients[2], end);
        if is_tls13(suite) {
            // The server owes this client a key update, which goes before the next data.
            clients[3].conn.refresh_traffic_keys().unwrap();
            let update = records(&mut clients[3], b"");
            clients[3].sock.write_all(&update).unwrap();
        }
        Self { clients, rest, late }
    }

    /// Every byte arrives once, and the session goes on without limits.
    fn end(mut self, suite: SupportedCipherSuite, pushes: u32) {
        self.clients[1].sock.write_all(&self.rest).unwrap();
        self.clients[2].sock.write_all(&self.late).unwrap();
        for (index, client) in self.clients.iter_mut().enumerate() {
            expect_pushes(&mut *client, 0..pushes);
            if index == 1 || index == 2 {
                assert_eq!(read(&mut *client).unwrap().0, op::HEARTBEAT_REPLY);
            }
            for _ in 0..3 {
                beat(client);
                if is_tls13(suite) {
                    client.conn.refresh_traffic_keys().unwrap();
                }
            }
            client.conn.send_close_notify();
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "the server answers the end");
        }
    }
}

#[test]
fn sessions_of_all_suites_move() {
    let certificate = Certificate::new();
    for suite in suites() {
        let (address, listener) = listen();
        let next_listener = listener.try_clone().unwrap();
        let rig = Rig::start(listener, Some(certificate.tls()), None);
        let config = certificate.client(suite);
        let under_way = UnderWay::begin(&rig, suite, |_| connect(address, &config));
        // Once this client has its reply, the core has read the earlier input of the others.
        let mut last = connect(address, &config);
        // So an older process refuses before any core is frozen.
        let required = rig.core.survey().wait(LIMIT).unwrap().required;
        assert_eq!(required, [feature::TLS, feature::TICKET_KEYS]);
        rig.freeze();
        rig.push_all(PUSHES);
        rig.freeze();
        let (state, sockets) = rig.offer();
        assert_eq!(state.required, [feature::TLS, feature::TICKET_KEYS]);
        let has_sealed = |conn: &comet_handover::Connection| {
            conn.tls.as_ref().is_some_and(|tls| tls.sealed > 0 && !tls.ciphertext.is_empty())
        };
        assert!(state.connections[..4].iter().all(has_sealed), "all are stalled");
        let received =
            |conn: &comet_handover::Connection| conn.tls.as_ref().unwrap().received.len();
        assert_eq!(state.connections.iter().map(received).sum::<usize>(), 11);
        let next = Rig::adopt(next_listener, Some(certificate.tls()), (state, sockets)).unwrap();
        rig.give_way(&next);
        next.push_all(PUSHES + 1);
        expect_pushes(&mut last, PUSHES..PUSHES + 2);
        beat(&mut last);
        drop(last);
        under_way.end(suite, PUSHES + 2);
        next.core.stop().unwrap();
    }
}

#[test]
fn sessions_of_all_suites_go_on_after_a_thaw() {
    let certificate = Certificate::new();
    for suite in suites() {
        let (address, listener) = listen();
        let rig = Rig::start(listener, Some(certificate.tls()), None);
        let config = certificate.client(suite);
        let under_way = UnderWay::begin(&rig, suite, |_| connect(address, &config));
        rig.freeze();
        // The other process gets everything, and ends.
        drop(rig.offer());
        rig.core.thaw().wait(LIMIT).unwrap().unwrap();
        rig.freeze();
        rig.core.thaw().wait(LIMIT).unwrap().unwrap();
        rig.push_all(PUSHES);
        under_way.end(suite, PUSHES + 1);
        rig.core.stop().unwrap();
    }
}

/// Each move happens during traffic in both directions.
#[test]
fn a_session_moves_many_times() {
    let certificate = Certificate::new();
    let (address, listener) = listen();
    let config = certificate.client(suites()[0]);
    let mut rig = Rig::start(listener.try_clone().unwrap(), Some(certificate.tls()), None);
    let mut clients = stalled(&rig, |_| connect(address, &config));
    for move_ in 0..5 {
        rig.freeze();
        let listener = listener.try_clone().unwrap();
        let next = Rig::adopt(listener, Some(certificate.tls()), rig.offer()).unwrap();
        rig.give_way(&next);
        rig = next;
        // One client reads a little, so that its next send is cut at another byte.
        expect_pushes(&mut clients[0], 50 * move_..50 * (move_ + 1));
        clients[0].conn.refresh_traffic_keys().unwrap();
    }
    for (client, from) in clients.iter_mut().zip([250, 0, 0, 0]) {
        expect_pushes(&mut *client, from..PUSHES);
        beat(client);
    }
    rig.core.stop().unwrap();
}

#[test]
fn openssl_updates_keys_before_and_after_a_move() {
    let certificate = Certificate::new();
    for cipher in
        ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
    {
        let (address, listener) = listen();
        let mut rig = Rig::start(listener.try_clone().unwrap(), Some(certificate.tls()), None);
        let arguments = ["-tls1_3", "-ciphersuites", cipher];
        let Some(mut client) = OpenSsl::connect(address, &certificate, &arguments) else { return };
        for number in 0..3 {
            // `k`: OpenSSL updates its own key.
            client.command("k");
            client.wait_for(">>> TLS 1.3, Handshake [length 0005], KeyUpdate");
            beat(&mut client);
            // `K`: OpenSSL asks for an update of the server's key, too.
            client.command("K");
            client.wait_for("<<< TLS 1.3, Handshake [length 0005], KeyUpdate");
            rig.push_all(number);
            expect_pushes(&mut client, number..number + 1);
            rig.freeze();
            // Requests that arrive meanwhile are answered by the next process.
            client.command("K");
            client.wait_for(">>> TLS 1.3, Handshake [length 0005], KeyUpdate");
            let listener = listener.try_clone().unwrap();
            let next = Rig::adopt(listener, Some(certificate.tls()), rig.offer()).unwrap();
            rig.give_way(&next);
            rig = next;
            client.wait_for("<<< TLS 1.3, Handshake [length 0005], KeyUpdate");
            beat(&mut client);
        }
        rig.core.stop().unwrap();
    }
}

#[test]
fn openssl_goes_on_in_tls_1_2() {
    let certificate = Certificate::new();
    for cipher in ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"] {
        let (address, listener) = listen();
        let next_listener = listener.try_clone().unwrap();
        let rig = Rig::start(listener, Some(certificate.tls()), None);
        let arguments = ["-tls1_2", "-cipher", cipher];
        let Some(mut client) = OpenSsl::connect(address, &certificate, &arguments) else { return };
        beat(&mut client);
        rig.freeze();
        let next = Rig::adopt(next_listener, Some(certificate.tls()), rig.offer()).unwrap();
        rig.give_way(&next);
        next.push_all(1);
        expect_pushes(&mut client, 1..2);
        beat(&mut client);
        next.core.stop().unwrap();
    }
}

/// Only connections that cannot move are closed.
#[test]
fn a_handshake_that_is_not_done_stays_behind() {
    let certificate = Certificate::new();
    let (address, listener) = listen();
    let next_listener = listener.try_clone().unwrap();
    let rig = Rig::start(listener, Some(certificate.tls()), None);
    let config = certificate.client(suites()[0]);
    let mut handshaking = TcpStream::connect(address).unwrap();
    handshaking.set_read_timeout(Some(LIMIT)).unwrap();
    // The begin of a ClientHello.
    handshaking.write_all(&[22, 3, 1, 0, 200, 1]).unwrap();
    let mut client = connect(address, &config);
    rig.core.close_unmovable(100).wait(LIMIT).unwrap().unwrap();
    assert_eq!(handshaking.read(&mut [0]).unwrap(), 0, "it is closed");
    beat(&mut client);
    rig.freeze();
    let (state, sockets) = rig.offer();
    assert_eq!(sockets.len(), 1);
    let next = Rig::adopt(next_listener, Some(certificate.tls()), (state, sockets)).unwrap();
    rig.give_way(&next);
    beat(&mut client);
    next.core.stop().unwrap();
}

#[test]
fn keys_that_cannot_be_read_refuse_the_hand_over() {
    let certificate = Certificate::new();
    let (address, listener) = listen();
    let next_listener = listener.try_clone().unwrap();
    let rig = Rig::start(listener, Some(certificate.tls()), None);
    let mut client = connect(address, &certificate.client(suites()[0]));
    rig.freeze();
    let (mut state, sockets) = rig.offer();
    state.connections[0].tls.as_mut().unwrap().session[0] = 99;
    let refused = Rig::adopt(next_listener, Some(certificate.tls()), (state, sockets));
    let error = refused.err().unwrap();
    assert!(error.contains("a TLS session: bytes that this version does not write"), "{error}");
    rig.core.thaw().wait(LIMIT).unwrap().unwrap();
    beat(&mut client);
    rig.core.stop().unwrap();
}

#[test]
fn a_client_resumes_with_a_ticket_of_the_former_process() {
    let certificate = Certificate::new();
    for suite in suites() {
        let (address, listener) = listen();
        let rig = Rig::start(listener.try_clone().unwrap(), Some(certificate.tls()), None);
        let config = certificate.client(suite);
        let mut first = connect(address, &config);
        assert_eq!(first.conn.handshake_kind(), Some(HandshakeKind::Full));
        rig.freeze();
        let next_tls = certificate.tls();
        let next =
            Rig::adopt(listener.try_clone().unwrap(), Some(next_tls.clone()), rig.offer()).unwrap();
        rig.give_way(&next);
        beat(&mut first);
        let mut second = connect(address, &config);
        assert_eq!(second.conn.handshake_kind(), Some(HandshakeKind::Resumed), "{suite:?}");
        beat(&mut second);
        // The keys that the next process received rotate there.
        next_tls.rotate_ticket_keys(Instant::now() + TICKET_KEY_ROTATION);
        let third = connect(address, &config);
        assert_eq!(third.conn.handshake_kind(), Some(HandshakeKind::Resumed), "{suite:?}");
        for rotation in 2..4 {
            next_tls.rotate_ticket_keys(Instant::now() + TICKET_KEY_ROTATION * rotation);
        }
        let fourth = connect(address, &config);
        assert_eq!(fourth.conn.handshake_kind(), Some(HandshakeKind::Full), "{suite:?}");
        next.core.stop().unwrap();
    }
}

#[test]
fn ticket_keys_that_cannot_be_read_refuse_the_hand_over() {
    let certificate = Certificate::new();
    let (_, listener) = listen();
    let next_listener = listener.try_clone().unwrap();
    let rig = Rig::start(listener, Some(certificate.tls()), None);
    rig.freeze();
    let (mut state, sockets) = rig.offer();
    state.ticket_keys.as_mut().unwrap().keys.pop();
    let refused = Rig::adopt(next_listener, Some(certificate.tls()), (state, sockets));
    let error = refused.err().unwrap();
    assert!(error.contains("the keys of session tickets: "), "{error}");
    rig.core.stop().unwrap();
}

/// The next process closes connections before it thaws, and the sealed sends for them are lost.
#[test]
fn a_connection_with_a_sealed_send_is_closed_while_frozen() {
    let certificate = Certificate::new();
    let config = certificate.client(suites()[0]);
    let network = "127.0.0.0/8".parse().unwrap();
    let block = BlockedNetwork { network, until: Millis(u64::MAX) };
    let blocklist = Blocklist::default().with(Millis(0), block).unwrap();
    let limits = Arc::new(Limits { blocklist, ..Limits::clone(&limits()) });
    for turns in [0, 1] {
        let (address, listener) = listen();
        let rig = Rig::start(listener.try_clone().unwrap(), Some(certificate.tls()), None);
        let clients = stalled(&rig, |_| connect(address, &config));
        rig.freeze();
        let tls = Some(certificate.tls());
        let next = Rig::adopt_with(listener, tls, &limits, rig.offer()).unwrap();
        for _ in 0..turns {
            let turn = next.core.frozen_turn().wait(LIMIT).unwrap();
            assert_eq!(turn.obstacles, None);
        }
        rig.give_way(&next);
        for mut client in clients {
            let mut pushes = Vec::new();
            // The connection ends inside a record or by a reset.
            client.read_to_end(&mut pushes).unwrap_err();
            assert!(pushes.len() < PUSHES as usize * 1_000);
        }
        next.core.stop().unwrap();
    }
}

/// TLS 1.2 cannot replace a key. Such a close is not counted as one by the peer.
#[test]
fn an_exhausted_key_ends_a_connection_as_a_failure_of_tls() {
    // Records of data that a key of AES-GCM may seal.
    const RECORDS_MAX: u64 = (1 << 24) - 4;
    let certificate = Certificate::new();
    let is_meant = |suite: &SupportedCipherSuite| {
        !is_tls13(*suite) && format!("{:?}", suite.suite()).contains("AES_128_GCM")
    };
    let suite = suites().into_iter().find(is_meant).unwrap();
    let (address, listener) = listen();
    let rig = Rig::start(listener.try_clone().unwrap(), Some(certificate.tls()), None);
    let mut client = connect(address, &certificate.client(suite));
    rig.freeze();
    let (mut state, sockets) = rig.offer();
    let session = &mut state.connections[0].tls.as_mut().unwrap().session;
    // A head of 5 bytes, and for each direction its number of records and its key.
    let sending = 5 + (session.len() - 5) / 2;
    session[sending..][..8].copy_from_slice(&RECORDS_MAX.to_be_bytes());
    let next = Rig::adopt(listener, Some(certificate.tls()), (state, sockets)).unwrap();
    rig.give_way(&next);
    next.push_all(0);
    let mut pushes = Vec::new();
    client.read_to_end(&mut pushes).unwrap_err();
    let closed = next.counters().closed;
    assert_eq!(closed[CloseReason::TlsFailed as usize], 1);
    assert_eq!(closed[CloseReason::PeerClosed as usize], 0);
    next.core.stop().unwrap();
}
