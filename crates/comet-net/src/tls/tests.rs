//! Sessions against rustls's own client, in memory: data in both directions, memory, and refusals.

mod memory;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use comet_core::Transport;
use comet_record::SEAL_OVERHEAD_MAX;
use rustls::client::ClientConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConnection, Error, RootCertStore, SupportedProtocolVersion};

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
    /// The plaintext that the server has decrypted.
    received: Vec<u8>,
    /// The plaintext that the client has decrypted.
    answered: Vec<u8>,
    _folder: Option<Folder>,
}

impl Pair {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let folder = Folder::new();
        let files = folder.pair(&["a.example"]);
        let tls = Tls::load(&options(std::slice::from_ref(&files), TlsVersion::V1_2)).unwrap();
        Self {
            client: client(&files.0, version),
            server: TlsSession::new(&tls.config(Transport::Tcp)),
            received: Vec::new(),
            answered: Vec::new(),
            _folder: Some(folder),
        }
    }

    fn connected(version: &'static SupportedProtocolVersion) -> Self {
        let mut pair = Self::new(version);
        while pair.client.is_handshaking() || pair.client.wants_write() {
            pair.client_sends(usize::MAX).unwrap();
            pair.server_sends();
        }
        pair
    }

    /// The bytes that the client has to send.
    fn flight(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn feed(&mut self, bytes: &mut [u8]) -> Result<ReadSide, String> {
        self.server.handle_recv(bytes, |plaintext| self.received.extend_from_slice(plaintext))
    }

    /// Passes all that the client has to send to the server, in pieces of `piece` bytes.
    fn client_sends(&mut self, piece: usize) -> Result<ReadSide, String> {
        let mut flight = self.flight();
        let mut read_side = Ok(ReadSide::Open);
        for piece in flight.chunks_mut(piece.min(1 << 16)) {
            read_side = self.feed(piece);
        }
        read_side
    }

    /// Passes all that the server has to send to the client. Returns how many bytes of transmits it
    /// contained.
    fn server_sends(&mut self) -> usize {
        let mut plaintext = 0;
        while let Some(bytes) = self.server.poll_transmit() {
            let bytes = bytes.to_vec();
            // The kernel may take less than it is given.
            let taken = bytes.len().div_ceil(3);
            plaintext += self.server.handle_sent(taken);
            let mut rest = &bytes[..taken];
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                let _ = self.client.process_new_packets();
                // rustls keeps a limited number of bytes. Without a close_notify the end shows as WouldBlock.
                let _ = self.client.reader().read_to_end(&mut self.answered);
            }
        }
        plaintext
    }

    fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answered)
    }

    fn holds_no_bytes(&self) -> bool {
        let TlsSession { unprocessed, in_flight, queued, .. } = &self.server;
        [unprocessed, &in_flight.bytes, &queued.bytes].iter().all(|buffer| buffer.capacity() == 0)
    }
}

#[test]
fn data_passes_in_both_directions_and_no_buffer_remains() {
    for version in VERSIONS {
        for piece in [1, 7, 1000, usize::MAX] {
            let mut pair = Pair::new(version);
            while pair.client.is_handshaking() || pair.client.wants_write() {
                pair.client_sends(piece).unwrap();
                pair.server_sends();
            }
            assert!(pair.holds_no_bytes(), "{version:?} by {piece}: after the handshake");
            pair.client.writer().write_all(&[7; 40_000]).unwrap();
            assert_eq!(pair.client_sends(piece), Ok(ReadSide::Open));
            assert_eq!(pair.received, [7; 40_000]);
            assert!(pair.server.encrypt(b"an answer", &TransmitBudget::default()).is_ok());
            assert_eq!(pair.server_sends(), 9);
            assert_eq!(pair.read(), b"an answer");
            assert!(pair.holds_no_bytes(), "{version:?} by {piece}: after traffic");
        }
    }
}

#[test]
fn a_long_transmit_is_sent_in_one_piece_within_the_budget_and_else_record_by_record() {
    for version in VERSIONS {
        for (has_budget, sends_min) in [(true, 1), (false, 18)] {
            let budget = TransmitBudget::default();
            let others = (!has_budget).then(|| budget.lease(TLS_TRANSMITS_MAX).expect("unused"));
            let mut pair = Pair::connected(version);
            let transmit: Vec<u8> = (0..300_000_u32).map(|at| at as u8).collect();
            let (mut done, mut sends) = (0, 0);
            let mut received = Vec::new();
            while done < transmit.len() {
                assert!(pair.server.encrypt(&transmit[done..], &budget).is_ok());
                let queued = pair.server.queued.bytes.capacity();
                let record = sealed_len_max(PLAINTEXT_MAX);
                assert!(has_budget || queued <= record, "{queued} bytes of one record");
                done += pair.server_sends();
                sends += 1;
                received.extend(pair.read());
            }
            assert!(received == transmit, "the same bytes arrive");
            assert!((sends_min..=sends_min + 2).contains(&sends), "{sends} sends");
            drop(others);
            assert!(budget.lease(TLS_TRANSMITS_MAX).is_some(), "all of it was given back");
        }
    }
}

#[test]
fn nothing_is_encrypted_before_the_handshake_is_done() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        assert!(pair.server.encrypt(b"closing", &TransmitBudget::default()).is_err());
        pair.client_sends(usize::MAX).unwrap();
        assert!(pair.server.encrypt(b"closing", &TransmitBudget::default()).is_err());
        pair.server.close();
        assert_eq!(pair.server_sends(), 0);
        // The records of the handshake itself are still sent.
        pair.client_sends(usize::MAX).unwrap();
        pair.server_sends();
        assert!(
            !pair.client.is_handshaking()
                && pair.server.encrypt(b"hello", &TransmitBudget::default()).is_ok()
        );
    }
}

#[test]
fn key_updates_are_answered() {
    let mut pair = Pair::connected(&TLS13);
    for round in 1..=40_u8 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(&[round]).unwrap();
        pair.client_sends(usize::MAX).unwrap();
        assert_eq!(pair.received.pop(), Some(round));
        assert!(pair.server.encrypt(&[round; 3], &TransmitBudget::default()).is_ok());
        assert_eq!(pair.server_sends(), 3);
        assert_eq!(pair.read(), [round; 3]);
        assert!(pair.holds_no_bytes(), "round {round}");
    }
    // A peer that requests updates and never reads gets one answer.
    let mut queued = 0;
    while pair.client_sends(usize::MAX).is_ok() {
        pair.client.refresh_traffic_keys().unwrap();
        queued = queued.max(pair.server.queued.bytes.len());
    }
    assert!(queued <= 2 * SEAL_OVERHEAD_MAX, "{queued} bytes");
}

/// rustls must open no record behind the handshake. The record layer would open it again, under another sequence
/// number.
#[test]
fn data_and_a_close_right_behind_the_handshake_arrive() {
    for version in VERSIONS {
        for piece in [1, 33, usize::MAX] {
            let mut pair = Pair::new(version);
            pair.client.writer().write_all(b"at once").unwrap();
            while pair.client.is_handshaking() {
                pair.server_sends();
                pair.client_sends(piece).unwrap();
            }
            pair.server_sends();
            pair.client.send_close_notify();
            assert_eq!(pair.client_sends(piece), Ok(ReadSide::Closed), "{version:?} by {piece}");
            assert_eq!(pair.received, b"at once");
        }
        // All of it comes in one piece.
        let mut pair = Pair::new(version);
        pair.client.writer().write_all(b"at once").unwrap();
        let mut last = Vec::new();
        while pair.client.is_handshaking() {
            pair.feed(&mut last).unwrap();
            pair.server_sends();
            last = pair.flight();
        }
        pair.client.send_close_notify();
        last.append(&mut pair.flight());
        let end = pair.feed(&mut last);
        assert_eq!((end, &pair.received[..]), (Ok(ReadSide::Closed), &b"at once"[..]));
    }
}

#[test]
fn a_fault_in_a_record_gets_its_alert() {
    for version in VERSIONS {
        let mut pair = Pair::connected(version);
        pair.client.writer().write_all(b"data").unwrap();
        let mut bytes = pair.flight();
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(pair.feed(&mut bytes).unwrap_err(), "a record that does not decrypt");
        let alert = pair.server.poll_transmit().expect("an alert").to_vec();
        pair.client.read_tls(&mut &alert[..]).unwrap();
        let told = pair.client.process_new_packets().unwrap_err();
        assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
        assert!(pair.server.encrypt(b"closing", &TransmitBudget::default()).is_err());
        assert_eq!(pair.feed(&mut bytes), Ok(ReadSide::Open), "nothing more is read");
        assert!(pair.server.unprocessed.is_empty());
    }
}

#[test]
fn only_handshakes_are_deferred() {
    let mut pair = Pair::new(&TLS13);
    let (mut hello, deferred) = (pair.flight(), |pair: &Pair| pair.server.is_deferred());
    let (early, late) = hello.split_at_mut(100);
    assert_eq!([early, late].map(|bytes| pair.server.defer(bytes)), [Ok(true), Ok(true)]);
    assert!(deferred(&pair));
    assert_eq!(pair.feed(&mut []), Ok(ReadSide::Open));
    assert!(!deferred(&pair) && pair.server.unprocessed.is_empty());
    pair.server_sends();
    let finished = pair.flight();
    assert_eq!(pair.server.defer(&finished), Ok(true));
    pair.feed(&mut []).unwrap();
    assert_eq!(pair.server.defer(&finished), Ok(false));
}

/// However a connection ends while its handshake waits, nothing is computed, so there are no records to send.
#[test]
fn the_end_of_a_session_computes_no_deferred_handshake() {
    type End = fn(&mut TlsSession);
    let ends: [(&str, End); 3] = [
        ("close", TlsSession::close),
        ("a close notice", |session| {
            assert!(session.encrypt(b"closing", &TransmitBudget::default()).is_err());
        }),
        ("a burst", |session| {
            session.defer(&[0; DEFERRED_MAX]).unwrap_err();
            session.close();
        }),
    ];
    for version in VERSIONS {
        for (case, end) in ends {
            let mut pair = Pair::new(version);
            let hello = pair.flight();
            assert_eq!(pair.server.defer(&hello), Ok(true));
            end(&mut pair.server);
            assert_eq!(pair.server.poll_transmit(), None, "{version:?}: {case}");
        }
    }
}

#[test]
fn close_notify_is_sent_and_answered() {
    for version in VERSIONS {
        let mut pair = Pair::connected(version);
        assert!(pair.server.encrypt(b"closing", &TransmitBudget::default()).is_ok());
        pair.server.close();
        assert_eq!(pair.server_sends(), 7);
        assert_eq!(pair.read(), b"closing");
        let mut rest = [0; 8];
        assert_eq!(pair.client.reader().read(&mut rest).unwrap(), 0, "close_notify arrived");

        let mut pair = Pair::connected(version);
        pair.client.writer().write_all(b"last words").unwrap();
        pair.client.send_close_notify();
        assert_eq!(pair.client_sends(usize::MAX), Ok(ReadSide::Closed));
        assert_eq!(pair.received, b"last words");
        assert_eq!(pair.feed(&mut [1, 2, 3]), Ok(ReadSide::Open), "nothing more is read");
        pair.server.close();
        pair.server_sends();
        assert_eq!(pair.client.reader().read(&mut rest).unwrap(), 0, "it was answered");
    }
}

#[test]
fn bytes_that_are_not_tls_get_an_alert() {
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
        let alert = pair.server.poll_transmit().expect("an alert");
        assert_eq!(alert[0], 21, "{fault}: {alert:?}");
        assert!(pair.server.encrypt(b"closing", &TransmitBudget::default()).is_err());
        assert_eq!(pair.feed(&mut bytes.to_vec()), Ok(ReadSide::Open), "nothing more is read");
    }
}

#[test]
fn the_memory_of_a_fragmented_handshake_message_is_bounded() {
    let mut pair = Pair::new(&TLS13);
    // The ClientHello has 60,000 bytes, one in each record.
    let mut fault = None;
    let mut hello = [&[1, 0, 0xea, 0x60][..], &[0; 60_000]].concat().into_iter();
    while fault.is_none() {
        let byte = hello.next().expect("it is refused before it is complete");
        fault = pair.feed(&mut [22, 3, 1, 0, 1, byte]).err();
        assert!(pair.server.unprocessed.len() <= UNPROCESSED_MAX);
    }
}

#[test]
fn flipped_bits_cause_no_panic() {
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
                pair.server_sends();
            }
        }
        // The second flight is encrypted, except for a part of it in TLS 1.2.
        let mut pair = Pair::new(version);
        pair.client_sends(usize::MAX).unwrap();
        pair.server_sends();
        for at in 0..pair.flight().len() {
            let mut pair = Pair::new(version);
            pair.client_sends(usize::MAX).unwrap();
            pair.server_sends();
            let mut flight = pair.flight();
            if let Some(byte) = flight.get_mut(at) {
                *byte ^= 0x01;
            }
            let _ = pair.feed(&mut flight);
            pair.server_sends();
            let _ = pair.feed(&mut first.clone());
            assert!(pair.received.is_empty());
        }
    }
}
