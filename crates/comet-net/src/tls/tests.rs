//! Sessions against rustls's own client, in memory: what arrives, what is kept, what is refused.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;

use comet_core::Transport;
use rustls::client::ClientConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, ProtocolVersion, RootCertStore, SupportedProtocolVersion};

use super::*;
use crate::certificates::tests::{Folder, options};
use crate::certificates::{Tls, TlsVersion};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A client that trusts the certificate in `chain`.
fn client(chain: &PathBuf, version: &'static SupportedProtocolVersion) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(chain).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    ClientConnection::new(Arc::new(config), "a.example".try_into().unwrap()).unwrap()
}

/// Both ends of a connection.
struct Pair {
    client: ClientConnection,
    server: TlsSession,
    /// Plaintext the server has heard.
    heard: Vec<u8>,
    _folder: Option<Folder>,
}

impl Pair {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let folder = Folder::new();
        let files = folder.pair(&["a.example"]);
        let tls = Tls::load(&options(std::slice::from_ref(&files), TlsVersion::V1_2)).unwrap();
        Self {
            client: client(&files.0, version),
            server: TlsSession::new(tls.config(Transport::Tcp)),
            heard: Vec::new(),
            _folder: Some(folder),
        }
    }

    fn handshaken(version: &'static SupportedProtocolVersion) -> Self {
        let mut pair = Self::new(version);
        while pair.client.is_handshaking() || pair.client.wants_write() {
            pair.client_speaks(usize::MAX).unwrap();
            pair.server_speaks();
        }
        pair
    }

    /// What the client has to send.
    fn flight(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn feed(&mut self, bytes: &mut [u8]) -> Result<Heard, String> {
        self.server.receive(bytes, |plain| self.heard.extend_from_slice(plain))
    }

    /// Everything the client has to send, in pieces of `piece` bytes.
    fn client_speaks(&mut self, piece: usize) -> Result<Heard, String> {
        let mut flight = self.flight();
        let mut heard = Ok(Heard::Open);
        for piece in flight.chunks_mut(piece.min(1 << 16)) {
            heard = self.feed(piece);
        }
        heard
    }

    /// Everything the server has to send; how many bytes of transmits were in it.
    fn server_speaks(&mut self) -> usize {
        let mut plain = 0;
        while let Some(bytes) = self.server.transmit() {
            let bytes = bytes.to_vec();
            // The kernel takes what it likes.
            let taken = bytes.len().div_ceil(3);
            plain += self.server.sent(taken);
            let mut rest = &bytes[..taken];
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                let _ = self.client.process_new_packets();
            }
        }
        plain
    }

    fn read(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Without a close_notify the end is WouldBlock.
        let _ = self.client.reader().read_to_end(&mut bytes);
        bytes
    }

    fn is_at_rest(&self) -> bool {
        let TlsSession { held, under_way, next, .. } = &self.server;
        [held, &under_way.bytes, &next.bytes].iter().all(|buffer| buffer.capacity() == 0)
    }
}

#[test]
fn bytes_go_both_ways_and_none_are_kept() {
    for version in VERSIONS {
        for piece in [1, 7, 1000, usize::MAX] {
            let mut pair = Pair::new(version);
            while pair.client.is_handshaking() || pair.client.wants_write() {
                pair.client_speaks(piece).unwrap();
                pair.server_speaks();
            }
            assert!(pair.is_at_rest(), "{version:?} by {piece}: after the handshake");
            pair.client.writer().write_all(&[7; 40_000]).unwrap();
            assert_eq!(pair.client_speaks(piece), Ok(Heard::Open));
            assert_eq!(pair.heard, [7; 40_000]);
            assert!(pair.server.seal(b"an answer"));
            assert_eq!(pair.server_speaks(), 9);
            assert_eq!(pair.read(), b"an answer");
            assert!(pair.is_at_rest(), "{version:?} by {piece}: after traffic");
        }
    }
}

#[test]
fn a_long_transmit_goes_record_by_record() {
    for version in VERSIONS {
        let mut pair = Pair::handshaken(version);
        let transmit: Vec<u8> = (0..1_000_000_u32).map(|at| at as u8).collect();
        let mut done = 0;
        let mut received = Vec::new();
        while done < transmit.len() {
            assert!(pair.server.seal(&transmit[done..]));
            let sealed = pair.server.next.bytes.capacity();
            assert!(sealed <= RECORD_MAX + RECORD_BESIDE, "{sealed} bytes of one record");
            done += pair.server_speaks();
            received.extend(pair.read());
        }
        assert!(received == transmit, "the same bytes arrive");
    }
}

#[test]
fn nothing_is_sealed_before_the_handshake_is_done() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        assert!(!pair.server.seal(b"goodbye"));
        pair.client_speaks(usize::MAX).unwrap();
        assert!(!pair.server.seal(b"goodbye"));
        pair.server.close();
        assert_eq!(pair.server_speaks(), 0);
        // What the handshake had to say was said all the same.
        pair.client_speaks(usize::MAX).unwrap();
        pair.server_speaks();
        assert!(!pair.client.is_handshaking() && pair.server.seal(b"hello"));
    }
}

#[test]
fn keys_may_be_renewed() {
    let mut pair = Pair::handshaken(&TLS13);
    for round in 1..=40_u8 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(&[round]).unwrap();
        pair.client_speaks(usize::MAX).unwrap();
        assert_eq!(pair.heard.pop(), Some(round));
        assert!(pair.server.seal(&[round; 3]));
        assert_eq!(pair.server_speaks(), 3);
        assert_eq!(pair.read(), [round; 3]);
        assert!(pair.is_at_rest(), "round {round}");
    }
    // A peer that only asks and never reads is answered once.
    let mut sealed = 0;
    while pair.client_speaks(usize::MAX).is_ok() {
        pair.client.refresh_traffic_keys().unwrap();
        sealed = sealed.max(pair.server.next.bytes.len());
    }
    assert!(sealed <= 2 * RECORD_BESIDE, "{sealed} bytes");
}

#[test]
fn a_handshake_is_put_off_and_nothing_else() {
    let mut pair = Pair::new(&TLS13);
    let (mut hello, deferred) = (pair.flight(), |pair: &Pair| pair.server.is_deferred());
    let (early, late) = hello.split_at_mut(100);
    assert!(pair.server.defer(early) && pair.server.defer(late) && deferred(&pair));
    assert!(!pair.server.defer(&[0; HELD_MAX]), "too much to keep");
    assert_eq!(pair.feed(&mut []), Ok(Heard::Open));
    assert!(!deferred(&pair) && pair.server.held.is_empty());
    pair.server_speaks();
    let finished = pair.flight();
    assert!(pair.server.defer(&finished));
    pair.feed(&mut []).unwrap();
    assert!(!pair.server.rustls.is_handshaking() && !pair.server.defer(&finished));
}

#[test]
fn both_sides_say_when_they_end() {
    for version in VERSIONS {
        let mut pair = Pair::handshaken(version);
        assert!(pair.server.seal(b"goodbye"));
        pair.server.close();
        assert_eq!(pair.server_speaks(), 7);
        assert_eq!(pair.read(), b"goodbye");
        let mut rest = [0; 8];
        assert_eq!(pair.client.reader().read(&mut rest).unwrap(), 0, "close_notify arrived");

        let mut pair = Pair::handshaken(version);
        pair.client.writer().write_all(b"last words").unwrap();
        pair.client.send_close_notify();
        assert_eq!(pair.client_speaks(usize::MAX), Ok(Heard::Closed));
        assert_eq!(pair.heard, b"last words");
        assert_eq!(pair.feed(&mut [1, 2, 3]), Ok(Heard::Open), "nothing more is read");
        pair.server.close();
        pair.server_speaks();
        assert_eq!(pair.client.reader().read(&mut rest).unwrap(), 0, "it was answered");
    }
}

#[test]
fn what_is_not_tls_is_refused_with_an_alert() {
    for bytes in [
        &b"GET /sub HTTP/1.1\r\nHost: comet\r\n\r\n"[..],
        b"\0\0\0\x12\0\x10\0\x01\0\0\0\x07\0\0\0\x01",
        // A record of 65,535 bytes, and one of application data before the handshake.
        b"\x16\x03\x01\xff\xff\x01\0",
        b"\x17\x03\x03\0\x10aaaaaaaaaaaaaaaa",
    ] {
        let mut pair = Pair::new(&TLS13);
        let fault = pair.feed(&mut bytes.to_vec()).unwrap_err();
        assert!(!fault.is_empty());
        let alert = pair.server.transmit().expect("an alert");
        assert_eq!(alert[0], 21, "{fault}: {alert:?}");
        assert!(!pair.server.seal(b"goodbye"));
        assert_eq!(pair.feed(&mut bytes.to_vec()), Ok(Heard::Open), "nothing more is read");
    }
}

#[test]
fn a_handshake_message_in_tiny_records_is_bounded() {
    let mut pair = Pair::new(&TLS13);
    // A ClientHello of 60,000 bytes, of which each record brings one.
    let mut fault = None;
    let mut hello = [&[1, 0, 0xea, 0x60][..], &[0; 60_000]].concat().into_iter();
    while fault.is_none() {
        let byte = hello.next().expect("it is refused before it is complete");
        fault = pair.feed(&mut [22, 3, 1, 0, 1, byte]).err();
        assert!(pair.server.held.len() <= HELD_MAX);
    }
}

#[test]
fn no_changed_byte_brings_it_down() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        let first = pair.flight();
        for at in 0..first.len() {
            for flip in [0x01, 0x80] {
                let mut pair = Pair::new(version);
                let mut flight = pair.flight();
                flight[at] ^= flip;
                let (early, late) = flight.split_at_mut(at / 2);
                let _ = pair.feed(early);
                let _ = pair.feed(late);
                let _ = pair.feed(&mut first.clone());
                pair.server.close();
                pair.server_speaks();
            }
        }
        // The second flight is encrypted, but for a part of it in 1.2.
        let mut pair = Pair::new(version);
        pair.client_speaks(usize::MAX).unwrap();
        pair.server_speaks();
        for at in 0..pair.flight().len() {
            let mut pair = Pair::new(version);
            pair.client_speaks(usize::MAX).unwrap();
            pair.server_speaks();
            let mut flight = pair.flight();
            if let Some(byte) = flight.get_mut(at) {
                *byte ^= 0x01;
            }
            let _ = pair.feed(&mut flight);
            pair.server_speaks();
            let _ = pair.feed(&mut first.clone());
            assert!(pair.heard.is_empty());
        }
    }
}

#[test]
fn an_idle_session_fits_its_budget() {
    const SESSIONS: usize = 400;
    const BUDGET: usize = 10 << 10;
    const ALONE: &str = "COMET_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // Other tests of this process would be measured with it.
        let name = "tls::tests::an_idle_session_fits_its_budget";
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args([name, "--exact", "--nocapture"]).env(ALONE, "1");
        let output = alone.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}");
        assert!(output.status.success() && said.contains("bytes a session"));
        return;
    }
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let files = Folder::new();
    let pair = files.pair(&["a.example"]);
    let tls = Tls::load(&options(std::slice::from_ref(&pair), TlsVersion::V1_2)).unwrap();
    let mut sessions = Vec::new();
    for version in VERSIONS {
        let mut before = 0;
        for number in 0..2 * SESSIONS {
            if number == SESSIONS {
                // What the process takes once is there by now.
                before = resident();
            }
            let mut handshake = Pair {
                client: client(&pair.0, version),
                server: TlsSession::new(tls.config(Transport::WebSocket)),
                heard: Vec::new(),
                _folder: None,
            };
            while handshake.client.is_handshaking() || handshake.client.wants_write() {
                handshake.client_speaks(usize::MAX).unwrap();
                handshake.server_speaks();
            }
            assert_eq!(handshake.client.protocol_version().unwrap(), version_of(version));
            sessions.push(Box::new(handshake.server));
        }
        let bytes = resident().saturating_sub(before) / SESSIONS;
        println!("{:?}: {bytes} bytes a session", version_of(version));
        assert!(bytes < BUDGET, "{bytes} bytes a session");
    }
}

fn version_of(version: &SupportedProtocolVersion) -> ProtocolVersion {
    if std::ptr::eq(version, &raw const TLS12) {
        ProtocolVersion::TLSv1_2
    } else {
        ProtocolVersion::TLSv1_3
    }
}
