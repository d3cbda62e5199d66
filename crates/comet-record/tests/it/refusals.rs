//! Records that no session takes, each with its alert.

use comet_record::{Fault, Opened, RECORD_LEN_MAX, Session, record_len};

use crate::forger::Forger;
use crate::peer::{SUITES, open_all, pair, records, sealed};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// The name of the case, the record's type and content, the fault, and the description of the alert.
type Case<Content> = (&'static str, u8, Content, Fault, Option<u8>);

/// Asserts that the session ends by `fault`, that the peer gets `alert` as the last record, and that nothing is opened
/// afterwards.
fn check_end(
    server: &mut Session,
    client: &mut Session,
    fault: Fault,
    alert: Option<u8>,
    case: &str,
) {
    let mut out = Vec::new();
    server.end(fault, &mut out);
    let told = open_all(client, &out).map(|_| ());
    match alert {
        // A warning does not end the session.
        Some(100) | None => assert_eq!(told, Ok(()), "{case}"),
        Some(alert) => assert_eq!(told, Err(Fault::Alert(alert)), "{case}"),
    }
    assert_eq!(out.is_empty(), alert.is_none(), "{case}");
    let mut more = sealed(client, b"more");
    assert_eq!(server.open(&mut more), Err(Fault::Ended), "{case}");
    out.clear();
    server.close(&mut out);
    server.answer_key_update(&mut out);
    server.seal(b"more", &mut out).unwrap_err();
    server.request_key_update(&mut out).unwrap_err();
    assert!(out.is_empty(), "{case}: an alert ends the side");
}

#[test]
fn every_changed_bit_is_refused() {
    for suite in SUITES {
        let (mut client, _) = pair(suite);
        let record = sealed(&mut client, b"hello");
        for at in 0..record.len() * 8 {
            let (mut client, mut server) = pair(suite);
            let mut changed = record.clone();
            changed[at / 8] ^= 1 << (at % 8);
            let len = record_len(&changed);
            if at / 8 == 3 || at / 8 == 4 {
                assert_ne!(len, Ok(Some(record.len())), "{suite:?}");
                // The following bytes would be taken for the rest of the record.
                let Ok(Some(len)) = len else { continue };
                changed.resize(len, 7);
            }
            let (expected, alert) = match at / 8 {
                0 if !matches!(changed[0], 21..=23) || suite.0 < 3 => (Fault::Unexpected, 10),
                1 | 2 => (Fault::BadVersion, 70),
                3 if suite.0 < 3 && changed.len() > 5 + (1 << 14) + 256 => (Fault::Oversized, 22),
                _ => (Fault::BadMac, 20),
            };
            assert_eq!(server.open(&mut changed), Err(expected), "{suite:?}: bit {at}");
            check_end(&mut server, &mut client, expected, Some(alert), &format!("bit {at}"));
        }
    }
}

#[test]
fn cut_lost_doubled_and_moved_records_are_refused() {
    for suite in SUITES {
        let (mut client, _) = pair(suite);
        let [first, second] = [b"first", b"other"].map(|data| sealed(&mut client, data));
        let mut cut = first[..first.len() - 1].to_vec();
        cut[4] -= 1;
        let mut empty = first[..5].to_vec();
        empty[4] = 0;
        let half = first.len() - 8;
        let spliced = [&first[..half], &second[half..]].concat();
        let wrong: [&[&[u8]]; 5] =
            [&[&cut], &[&empty], &[&second], &[&first, &first], &[&first, &spliced]];
        for (case, wrong) in wrong.iter().enumerate() {
            let (mut client, mut server) = pair(suite);
            let (last, before) = wrong.split_last().unwrap();
            for record in before {
                assert_eq!(server.open(&mut record.to_vec()), Ok(Opened::Data(b"first")));
            }
            assert_eq!(server.open(&mut last.to_vec()), Err(Fault::BadMac), "{suite:?}: {case}");
            check_end(&mut server, &mut client, Fault::BadMac, Some(20), "moved");
        }
        // A record of one side is not accepted when it comes back as one of the other side.
        let (mut client, _) = pair(suite);
        assert_eq!(client.open(&mut first.clone()), Err(Fault::BadMac), "reflected");
    }
}

#[test]
fn messages_that_are_invalid_after_the_handshake_are_refused() {
    let update = |last| [&KEY_UPDATE[..4], &[last]].concat();
    let new_session_ticket = [4, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let cases: &[Case<Vec<u8>>] = &[
        ("a type inside that is none", 0x18, vec![1, 2, 3], Fault::Unexpected, Some(10)),
        ("a protected change_cipher_spec", 20, vec![1], Fault::Unexpected, Some(10)),
        ("an empty alert", ALERT, vec![], Fault::Unexpected, Some(10)),
        ("half an alert", ALERT, vec![1], Fault::Malformed, Some(50)),
        ("two alerts", ALERT, vec![1, 90, 1, 90], Fault::Malformed, Some(50)),
        ("a fatal alert", ALERT, vec![2, 40], Fault::Alert(40), None),
        ("a fatal alert that says warning", ALERT, vec![1, 40], Fault::Alert(40), None),
        ("an empty handshake message", HANDSHAKE, vec![], Fault::Unexpected, Some(10)),
        ("a ClientHello", HANDSHAKE, vec![1, 0, 0, 1, 0], Fault::Unexpected, Some(10)),
        ("a ticket", HANDSHAKE, new_session_ticket.to_vec(), Fault::Unexpected, Some(10)),
        ("a certificate", HANDSHAKE, vec![11, 0, 0, 0], Fault::Unexpected, Some(10)),
        ("an update of two bytes", HANDSHAKE, vec![24, 0, 0, 2, 0, 0], Fault::Malformed, Some(50)),
        ("an update of 64 KiB", HANDSHAKE, vec![24, 1, 0, 0], Fault::Malformed, Some(50)),
        ("an update that asks what?", HANDSHAKE, update(2), Fault::IllegalParameter, Some(47)),
        (
            "two updates in one record",
            HANDSHAKE,
            [KEY_UPDATE, KEY_UPDATE].concat(),
            Fault::Unexpected,
            Some(10),
        ),
    ];
    for (case, content_type, content, fault, alert) in cases {
        let (mut client, mut server) = pair(SUITES[0]);
        let mut record = Forger::tls13().record(*content_type, content, 0);
        assert_eq!(server.open(&mut record), Err(*fault), "{case}");
        check_end(&mut server, &mut client, *fault, *alert, case);
    }
    for outer in [ALERT, HANDSHAKE, 20, 0, 255] {
        let (_, mut server) = pair(SUITES[0]);
        let mut record = vec![outer, 3, 3, 0, 1, 1];
        assert_eq!(server.open(&mut record), Err(Fault::Unexpected), "not protected: {outer}");
    }
}

#[test]
fn tls_1_2_negotiates_once() {
    let cases: &[Case<&[u8]>] = &[
        ("a ClientHello", HANDSHAKE, &[1, 0, 1, 0, 3, 3], Fault::Renegotiation, Some(100)),
        ("a KeyUpdate", HANDSHAKE, &KEY_UPDATE, Fault::Unexpected, Some(10)),
        ("an empty handshake message", HANDSHAKE, &[], Fault::Unexpected, Some(10)),
        ("an alert of level 3", ALERT, &[3, 10], Fault::IllegalParameter, Some(47)),
        ("a fatal alert", ALERT, &[2, 10], Fault::Alert(10), None),
    ];
    for (case, content_type, content, fault, alert) in cases {
        let (mut client, mut server) = pair(SUITES[3]);
        let mut record = Forger::tls12().record(*content_type, content, 0);
        assert_eq!(server.open(&mut record), Err(*fault), "{case}");
        check_end(&mut server, &mut client, *fault, *alert, case);
    }
    let (_, mut server) = pair(SUITES[3]);
    let mut forger = Forger::tls12();
    assert_eq!(server.open(&mut forger.record(ALERT, &[1, 100], 0)), Ok(Opened::Nothing));
    assert_eq!(server.open(&mut forger.record(DATA, b"data", 0)), Ok(Opened::Data(b"data")));
    assert_eq!(server.open(&mut forger.record(ALERT, &[1, 0], 0)), Ok(Opened::Closed));
    assert_eq!(server.open(&mut forger.record(DATA, b"data", 0)), Ok(Opened::Closed));
}

#[test]
fn padding_is_removed_and_counts() {
    let longest = vec![7; 1 << 14];
    for (content, padding) in [(&b"data"[..], 0), (b"data", 1), (b"data", 16_380), (&longest, 0)] {
        let (_, mut server) = pair(SUITES[0]);
        let mut record = Forger::tls13().record(DATA, content, padding);
        assert_eq!(server.open(&mut record), Ok(Opened::Data(content)), "{padding}");
    }
    let too_long = [&longest[..], &[7]].concat();
    for (content, padding) in [(&longest[..], 1), (b"data", 16_381), (&too_long, 0)] {
        let (_, mut server) = pair(SUITES[0]);
        let mut record = Forger::tls13().record(DATA, content, padding);
        assert_eq!(server.open(&mut record), Err(Fault::Oversized), "{padding}");
    }
    // Only zeros: there is no type.
    let (_, mut server) = pair(SUITES[0]);
    let mut record = Forger::tls13().record(0, &[0; 40], 3);
    assert_eq!(server.open(&mut record), Err(Fault::Unexpected));
    // TLS 1.2 has no padding, and the same number of bytes.
    let (_, mut server) = pair(SUITES[3]);
    let mut record = Forger::tls12().record(DATA, &longest, 0);
    assert_eq!(server.open(&mut record), Ok(Opened::Data(&longest)));
    let mut record = Forger::tls12().record(DATA, &too_long, 0);
    let (_, mut server) = pair(SUITES[3]);
    assert_eq!(server.open(&mut record), Err(Fault::Oversized));
}

#[test]
fn the_length_in_the_header_is_bounded() {
    assert_eq!(record_len(&[23, 3, 3, 0x48]), Ok(None));
    assert_eq!(record_len(&[23, 3, 3, 0x48, 0]), Ok(Some(RECORD_LEN_MAX)));
    assert_eq!(record_len(&[23, 3, 3, 0x48, 1]), Err(Fault::Oversized));
    assert_eq!(record_len(&[23, 3, 3, 0, 0]), Ok(Some(5)));
    // TLS 1.3 leaves less room.
    let (_, mut server) = pair(SUITES[0]);
    let mut record = vec![0; 5 + (1 << 14) + 257];
    record[..5].copy_from_slice(&[23, 3, 3, 0x41, 1]);
    assert_eq!(server.open(&mut record), Err(Fault::Oversized));
}

#[test]
fn records_without_data_are_bounded() {
    let wasted: [(u8, &[u8]); 2] = [(DATA, b""), (ALERT, &[1, 90])];
    for (content_type, content) in wasted {
        for is_tls13 in [true, false] {
            let mut forger = if is_tls13 { Forger::tls13() } else { Forger::tls12() };
            let (_, mut server) = pair(SUITES[if is_tls13 { 0 } else { 3 }]);
            for _ in 0..3 {
                for _ in 0..32 {
                    let mut record = forger.record(content_type, content, 0);
                    assert_eq!(server.open(&mut record), Ok(Opened::Nothing));
                }
                let mut record = forger.record(DATA, b"data", 0);
                assert_eq!(server.open(&mut record), Ok(Opened::Data(b"data")));
            }
            for _ in 0..32 {
                server.open(&mut forger.record(content_type, content, 0)).unwrap();
            }
            let mut record = forger.record(content_type, content, 0);
            assert_eq!(server.open(&mut record), Err(Fault::NoData));
        }
    }
    // Key updates count as records without data, so that a peer cannot cause endless key derivations.
    let (mut client, mut server) = pair(SUITES[0]);
    let mut out = Vec::new();
    for _ in 0..33 {
        client.request_key_update(&mut out).unwrap();
    }
    let mut results: Vec<_> =
        records(&out).into_iter().map(|mut record| server.open(&mut record).map(|_| ())).collect();
    assert_eq!(results.pop(), Some(Err(Fault::NoData)));
    assert!(results.iter().all(Result::is_ok));
}

#[test]
fn a_key_update_may_come_in_pieces_with_nothing_between_them() {
    let (_, mut server) = pair(SUITES[0]);
    let mut forger = Forger::tls13();
    for byte in KEY_UPDATE {
        assert_eq!(server.open(&mut forger.record(HANDSHAKE, &[byte], 0)), Ok(Opened::Nothing));
    }
    assert!(!server.owes_key_update());
    let mut next = Forger::tls13_updated().record(DATA, b"data", 0);
    assert_eq!(server.open(&mut next), Ok(Opened::Data(b"data")));

    for (content_type, content) in [(DATA, &b"data"[..]), (ALERT, &[1, 0])] {
        let (_, mut server) = pair(SUITES[0]);
        let mut forger = Forger::tls13();
        server.open(&mut forger.record(HANDSHAKE, &KEY_UPDATE[..4], 0)).unwrap();
        let mut between = forger.record(content_type, content, 0);
        assert_eq!(server.open(&mut between), Err(Fault::Unexpected));
    }
    // A record with the old key is refused after the update.
    let (_, mut server) = pair(SUITES[0]);
    let mut forger = Forger::tls13();
    server.open(&mut forger.record(HANDSHAKE, &KEY_UPDATE, 0)).unwrap();
    assert_eq!(server.open(&mut forger.record(DATA, b"old", 0)), Err(Fault::BadMac));
}
