//! Two sessions that are each other's peer.

use comet_record::{Fault, Opened, Session, record_len};

/// The suites in the order of the exported format, with the lengths of their secrets for one direction.
pub(crate) const SUITES: [(u8, usize); 6] = [(0, 32), (1, 48), (2, 32), (3, 28), (4, 44), (5, 44)];

/// A session with these numbers of records, received and sent.
pub(crate) fn session((suite, len): (u8, usize), is_client: bool, sequences: [u64; 2]) -> Session {
    Session::import(&exported((suite, len), is_client, sequences)).unwrap()
}

pub(crate) fn exported(
    (suite, len): (u8, usize),
    is_client: bool,
    [received, sent]: [u64; 2],
) -> Vec<u8> {
    let mut secrets = [vec![1; len], vec![2; len]];
    if is_client {
        secrets.reverse();
    }
    let (received, sent) = (received.to_be_bytes(), sent.to_be_bytes());
    [&[1, suite, 0, 0, 0][..], &received, &secrets[0], &sent, &secrets[1]].concat()
}

pub(crate) fn pair(suite: (u8, usize)) -> (Session, Session) {
    (session(suite, true, [0, 0]), session(suite, false, [0, 0]))
}

/// The records in `bytes`.
pub(crate) fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some(len) = record_len(bytes).unwrap() {
        let (record, rest) = bytes.split_at(len);
        records.push(record.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "whole records");
    records
}

/// The data that `session` opens in the records of `bytes`, and whether one of them closes.
pub(crate) fn open_all(session: &mut Session, bytes: &[u8]) -> Result<(Vec<u8>, bool), Fault> {
    let (mut data, mut is_closed) = (Vec::new(), false);
    for mut record in records(bytes) {
        match session.open(&mut record)? {
            Opened::Data(bytes) => data.extend_from_slice(bytes),
            Opened::Nothing => {}
            Opened::Closed => is_closed = true,
        }
    }
    Ok((data, is_closed))
}

pub(crate) fn sealed(session: &mut Session, plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    session.seal(plaintext, &mut out).unwrap();
    assert!(out.len() <= comet_record::sealed_len_max(plaintext.len()));
    out
}
