//! The last records of a key.

use comet_record::{Fault, Opened, SealError};

use crate::peer::{SUITES, open_all, records, sealed, session};

/// Records of data that one key of AES-GCM seals.
const AES_LIMIT: u64 = (1 << 24) - 4;

#[test]
fn a_key_of_tls_1_3_is_updated_before_its_limit() {
    for (suite, limit) in
        [(SUITES[0], AES_LIMIT), (SUITES[1], AES_LIMIT), (SUITES[2], u64::MAX - 4)]
    {
        let mut server = session(suite, false, [0, limit - 2]);
        let mut client = session(suite, true, [limit - 2, 0]);
        for (at, updates) in [0, 0, 1, 0].into_iter().enumerate() {
            let out = sealed(&mut server, b"data");
            assert_eq!(records(&out).len(), 1 + updates, "record {at}");
            assert_eq!(open_all(&mut client, &out), Ok((b"data".to_vec(), false)));
            assert!(!client.owes_key_update(), "its key is another one");
        }
        // In the middle of a long piece, too.
        let mut server = session(suite, false, [0, limit - 1]);
        let mut client = session(suite, true, [limit - 1, 0]);
        let out = sealed(&mut server, &[7; 40_000]);
        assert_eq!(records(&out).len(), 4);
        assert_eq!(open_all(&mut client, &out), Ok((vec![7; 40_000], false)));
    }
}

#[test]
fn a_key_of_tls_1_2_ends() {
    for (suite, limit) in
        [(SUITES[3], AES_LIMIT), (SUITES[4], AES_LIMIT), (SUITES[5], u64::MAX - 4)]
    {
        let mut server = session(suite, false, [0, limit - 2]);
        let mut client = session(suite, true, [limit - 2, 0]);
        let mut out = Vec::new();
        assert_eq!(server.seal(&[7; 40_000], &mut out), Err(SealError::KeyExhausted));
        assert!(out.is_empty(), "all or nothing");
        server.seal(&[7; 20_000], &mut out).unwrap();
        let sealed = out.len();
        assert_eq!(server.seal(b"one more", &mut out), Err(SealError::KeyExhausted));
        assert_eq!(server.request_key_update(&mut out), Err(SealError::KeyExhausted));
        assert_eq!(out.len(), sealed);
        server.close(&mut out);
        assert_eq!(open_all(&mut client, &out), Ok((vec![7; 20_000], true)));
    }
}

#[test]
fn numbers_do_not_start_again() {
    for suite in SUITES {
        let mut server = session(suite, false, [u64::MAX, 0]);
        // A record with this number would have the seal of another one, which does not matter here.
        let mut record = sealed(&mut session(suite, true, [0, 0]), b"data");
        assert_eq!(server.open(&mut record), Err(Fault::SequenceEnd));
    }
}

#[test]
fn a_peer_that_asks_for_updates_gets_one_however_often_it_asks() {
    let (mut client, mut server) = crate::peer::pair(SUITES[1]);
    let mut out = Vec::new();
    for _ in 0..5 {
        client.request_key_update(&mut out).unwrap();
    }
    assert_eq!(open_all(&mut server, &out), Ok((vec![], false)));
    assert!(server.owes_key_update());
    let answer = sealed(&mut server, b"data");
    assert_eq!(records(&answer).len(), 2);
    assert!(!server.owes_key_update());
    assert_eq!(open_all(&mut client, &answer), Ok((b"data".to_vec(), false)));
    assert!(!client.owes_key_update());
    // At once, without data.
    out.clear();
    client.request_key_update(&mut out).unwrap();
    open_all(&mut server, &out).unwrap();
    out.clear();
    server.answer_key_update(&mut out);
    assert_eq!(records(&out).len(), 1);
    server.answer_key_update(&mut out);
    assert_eq!(records(&out).len(), 1);
    open_all(&mut client, &out).unwrap();
    // Not after our close_notify.
    out.clear();
    server.close(&mut out);
    client.request_key_update(&mut Vec::new()).unwrap();
    server.answer_key_update(&mut out);
    assert_eq!(records(&out).len(), 1);
    assert_eq!(client.open(&mut out), Ok(Opened::Closed));
}
