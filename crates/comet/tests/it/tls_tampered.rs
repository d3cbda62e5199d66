//! Records that were changed, cut, swapped, lost or repeated on their way to the running server.

use std::io::{Read, Write};
use std::sync::Arc;

use comet_client::{Transport, op};
use rustls::AlertDescription::{
    self, BadRecordMac, ProtocolVersion, RecordOverflow, UnexpectedMessage,
};
use rustls::version::{TLS12, TLS13};

use crate::peer::{Peer, frame};
use crate::tls::{Certificates, Stream, live};

/// A change of two records of a client by an attacker, and the alert that the client gets.
type Tampering = (fn([Vec<u8>; 2]) -> Vec<u8>, AlertDescription);

pub(crate) const CASES: [Tampering; 8] = [
    // Changed in the last byte.
    (|[first, _]| [&first[..first.len() - 1], &[!first[first.len() - 1]]].concat(), BadRecordMac),
    // Cut, with the length of the header corrected.
    (
        |[first, _]| {
            let length = u16::try_from(first.len() - 6).unwrap().to_be_bytes();
            [&first[..3], &length, &first[5..first.len() - 1]].concat()
        },
        BadRecordMac,
    ),
    // Cut by four bytes, with the old length in the header. A cut of one byte would have no effect in one of 256 cases.
    (|[first, second]| [&first[..first.len() - 4], &second].concat(), BadRecordMac),
    // Swapped, lost and repeated.
    (|[first, second]| [second, first].concat(), BadRecordMac),
    (|[_, second]| second, BadRecordMac),
    (|[first, _]| first.repeat(2), BadRecordMac),
    // Longer than any version allows, by its header; and a wrong version in the header.
    (|_| vec![23, 3, 3, 0x48, 1], RecordOverflow),
    (|[first, _]| [&[23, 3, 4][..], &first[3..]].concat(), ProtocolVersion),
];

/// Sends two records of `peer` after a change by `tamper`. The connection must end with `alert`.
#[track_caller]
pub(crate) fn expect_alert(peer: &mut Peer<Stream>, (tamper, alert): Tampering, what: &str) {
    let records = [5, 6].map(|sequence| {
        let heartbeat = frame(op::HEARTBEAT, sequence, b"");
        peer.stream.conn.writer().write_all(&heartbeat).unwrap();
        let mut record = Vec::new();
        peer.stream.conn.write_tls(&mut record).unwrap();
        record
    });
    peer.stream.sock.write_all(&tamper(records)).unwrap();
    expect_end(peer, alert, what);
}

#[track_caller]
fn expect_end(peer: &mut Peer<Stream>, alert: AlertDescription, what: &str) {
    let error = peer.stream.read_to_end(&mut Vec::new()).unwrap_err();
    let expected = format!("AlertReceived({alert:?})");
    assert!(format!("{error:?}").contains(&expected), "{what}: {error:?}, not {expected}");
}

#[test]
fn tampered_records_end_the_connection_with_the_right_alert() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[]);
    let mut failed = 0;
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(certificates.client(&[version]));
        for (index, case) in CASES.into_iter().enumerate() {
            let mut peer = live(&server, Transport::Tcp, &client, "8");
            expect_alert(&mut peer, case, &format!("{version:?}, case {index}"));
            failed += 1;
            server.until("comet_connections", 0);
            assert_eq!(server.metrics().closed("tls_failed"), failed);
        }
        // A handshake message is unexpected here. In TLS 1.3 it is refused before decryption.
        let mut peer = live(&server, Transport::Tcp, &client, "8");
        peer.stream.sock.write_all(&[&[22, 3, 3, 0, 40][..], &[7; 40]].concat()).unwrap();
        let alert = if *version == TLS12 { BadRecordMac } else { UnexpectedMessage };
        expect_end(&mut peer, alert, "a handshake message");
        failed += 1;
        server.until("comet_connections", 0);
    }
    assert_eq!(server.metrics().closed("tls_failed"), failed);
    server.metrics().assert_balanced();
}
