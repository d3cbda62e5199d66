//! A server session and a rustls client, whose bytes are cut, changed, doubled and lost on the way. The decisions come
//! from a fuzzer (`crates/fuzz`, with the feature `fuzzing`) or from its corpus (`cargo test`).

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::{DEFERRED_MAX, ReadSide, TlsSession, TransmitBudget, UNPROCESSED_MAX};

/// Most bytes that the client or the server sends in one step.
const SAID_MAX: usize = 40_000;

/// Reads `decisions` and takes the steps they name. After each step it checks what holds for any bytes of a peer: the
/// plaintext is a prefix of what the client sent; nothing is decrypted after a fault; few bytes are kept.
///
/// # Panics
/// If one of these conditions does not hold.
pub fn check(decisions: &[u8]) {
    let Some((&first, mut rest)) = decisions.split_first() else { return };
    let mut pair = Pair::new(usize::from(first & 1));
    let moves = first & 2 != 0;
    while let [step, argument, after @ ..] = rest {
        rest = after;
        pair.step(*step, usize::from(*argument), &mut rest);
        if moves {
            pair.move_server();
        }
        pair.check();
    }
}

struct Pair {
    client: ClientConnection,
    server: TlsSession,
    budget: TransmitBudget,
    /// Bytes of the client that have not reached the server.
    wire: Vec<u8>,
    /// The bytes on `wire` are unchanged and in their order.
    is_intact: bool,
    /// A fault ended the session.
    has_failed: bool,
    /// The client has sent its close_notify. It reads nothing more: on a fault rustls would have it send an alert, and
    /// it asserts that none follows a close_notify.
    client_has_closed: bool,
    /// Bytes that each side has sent and the other has received. The n-th byte is `n % 251`.
    client_said: usize,
    server_heard: usize,
    server_said: usize,
    client_heard: usize,
}

/// The configurations of both sides for TLS 1.2 and TLS 1.3.
fn configs() -> &'static [(Arc<ServerConfig>, Arc<ClientConfig>); 2] {
    static CONFIGS: OnceLock<[(Arc<ServerConfig>, Arc<ClientConfig>); 2]> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let made =
            rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
        let certificate = CertificateDer::from(made.cert.der().to_vec());
        [&TLS12, &TLS13].map(|version| {
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
            let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
                .with_protocol_versions(&[version])
                .expect("a version of the provider")
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key)
                .expect("a key that fits");
            let mut roots = RootCertStore::empty();
            roots.add(certificate.clone()).expect("a root");
            let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
                .with_protocol_versions(&[version])
                .expect("a version of the provider")
                .with_root_certificates(roots)
                .with_no_client_auth();
            (Arc::new(server), Arc::new(client))
        })
    })
}

impl Pair {
    fn new(version: usize) -> Self {
        let (server, client) = &configs()[version];
        let name = "a.example".try_into().expect("a name");
        Self {
            client: ClientConnection::new(Arc::clone(client), name).expect("a client"),
            server: TlsSession::new(server),
            budget: TransmitBudget::default(),
            wire: Vec::new(),
            is_intact: true,
            has_failed: false,
            client_has_closed: false,
            client_said: 0,
            server_heard: 0,
            server_said: 0,
            client_heard: 0,
        }
    }

    fn step(&mut self, step: u8, argument: usize, decisions: &mut &[u8]) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.wire).expect("a Vec takes all");
        }
        let at = argument.min(self.wire.len());
        match step % 12 {
            0 => self.arrive(self.wire.len()),
            1 => self.arrive(at),
            2 if at < self.wire.len() => {
                self.wire[at] ^= 1 << (step / 12 % 8);
                self.is_intact = false;
            }
            3 if at > 0 => {
                self.wire.drain(..at);
                self.is_intact = false;
            }
            4 if at > 0 => {
                self.wire.extend_from_within(..at);
                self.is_intact = false;
            }
            5 => {
                let (foreign, after) = decisions.split_at(argument.min(decisions.len()));
                *decisions = after;
                self.wire.extend_from_slice(foreign);
                self.is_intact &= foreign.is_empty();
            }
            6 => {
                let said = saying(self.client_said, argument * 157 % SAID_MAX);
                self.client_said += self.client.writer().write(&said).unwrap_or(0);
            }
            7 => self.transmit(argument * 157 % SAID_MAX),
            8 => self.answer(argument),
            9 => {
                self.client.send_close_notify();
                self.client_has_closed = true;
            }
            10 => self.server.close(),
            11 => {
                let mut bytes: Vec<_> = self.wire.drain(..at).collect();
                match self.server.defer(&bytes) {
                    Ok(true) => {}
                    Ok(false) => self.receive(&mut bytes),
                    Err(_) => self.has_failed = true,
                }
            }
            _ => {}
        }
    }

    fn arrive(&mut self, len: usize) {
        let mut bytes: Vec<_> = self.wire.drain(..len).collect();
        self.receive(&mut bytes);
    }

    fn receive(&mut self, bytes: &mut [u8]) {
        let (heard, had_failed) = (&mut self.server_heard, self.has_failed);
        let result = self.server.handle_recv(bytes, |plaintext| {
            assert!(!had_failed, "plaintext after a fault");
            assert_eq!(plaintext, saying(*heard, plaintext.len()), "what the client has said");
            *heard += plaintext.len();
        });
        match result {
            Ok(ReadSide::Open | ReadSide::Closed) => {}
            Err(fault) => {
                assert!(!fault.is_empty());
                self.has_failed = true;
            }
        }
    }

    /// The server sends `len` bytes, if its last transmit has left.
    fn transmit(&mut self, len: usize) {
        if len == 0 || self.server.plaintext_len() > 0 {
            return;
        }
        if self.server.encrypt(&saying(self.server_said, len), &self.budget).is_ok() {
            self.server_said += self.server.plaintext_len();
        }
    }

    /// The kernel takes `len` of the server's bytes (0: all), and they arrive at the client.
    fn answer(&mut self, len: usize) {
        let Some(bytes) = self.server.poll_transmit() else { return };
        let taken = if len == 0 { bytes.len() } else { len.min(bytes.len()) };
        let bytes = bytes[..taken].to_vec();
        self.server.handle_sent(taken);
        let mut rest = &bytes[..];
        while !rest.is_empty() && !self.client_has_closed {
            // A client that has failed or whose buffer is full takes no more.
            if !matches!(self.client.read_tls(&mut rest), Ok(1..)) {
                break;
            }
            let _ = self.client.process_new_packets();
            let mut answered = Vec::new();
            let _ = self.client.reader().read_to_end(&mut answered);
            assert_eq!(
                answered,
                saying(self.client_heard, answered.len()),
                "what the server has said"
            );
            self.client_heard += answered.len();
        }
    }

    /// Moves the session as if to another process, if its handshake is done.
    fn move_server(&mut self) {
        if let Some(tls) = self.server.export() {
            self.server = TlsSession::import(tls, &self.budget).expect("it was exported");
        }
    }

    fn check(&self) {
        assert!(self.server_heard <= self.client_said);
        assert!(self.client_heard <= self.server_said);
        let most = if self.server.is_deferred() { DEFERRED_MAX } else { UNPROCESSED_MAX };
        assert!(self.server.unprocessed.len() <= most);
        assert!(!self.is_intact || !self.has_failed || self.server.unprocessed.is_empty());
        if self.is_intact && self.wire.is_empty() && self.server.has_answered() && !self.has_failed
        {
            assert!(self.server.unprocessed.len() < 19_000, "whole records are processed");
        }
    }
}

/// The `len` bytes that a side sends after its first `said` bytes.
fn saying(said: usize, len: usize) -> Vec<u8> {
    (said..said + len).map(|number| (number % 251) as u8).collect()
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
#[test]
fn corpus_of_tls() {
    replay::replay("tls", check);
}

#[cfg(test)]
#[test]
fn corpus_of_tls_with_sessions_that_move() {
    replay::replay("tls", |decisions| {
        let mut decisions = decisions.to_vec();
        decisions[0] |= 2;
        check(&decisions);
    });
}

/// Data in both directions, cut anywhere, with one more move of the session at each step.
#[cfg(test)]
#[test]
fn nothing_is_lost_by_sessions_that_move_at_any_moment() {
    let mut random = 7_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 56) as u8
    };
    for version in 0..2 {
        // These steps complete the handshake.
        let mut decisions = [0, 0, 8, 0].repeat(4);
        for _ in 0..400 {
            decisions.extend([[0, 1, 6, 7, 8][usize::from(next() % 5)], next()]);
        }
        // These let the rest arrive.
        decisions.extend([8, 0, 0, 0].repeat(200));
        let mut pair = Pair::new(version);
        let mut rest = &decisions[..];
        while let [step, argument, after @ ..] = rest {
            rest = after;
            pair.step(*step, usize::from(*argument), &mut rest);
            pair.move_server();
            pair.check();
        }
        let all = (pair.client_said, pair.server_said);
        assert_eq!((pair.server_heard, pair.client_heard), all);
        assert!(!pair.has_failed && all.0 > 5_000 && all.1 > 5_000, "{all:?}");
    }
}
