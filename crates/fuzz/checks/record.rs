//! Two sessions of TLS records, and a wire on which bytes are cut, changed, doubled, moved and lost. What a session opens is
//! what its peer has sealed, in order; a session that has failed opens and seals nothing; a moved session goes on as
//! it was. Any bytes may be offered as a record or as an exported session.

use comet_record::{
    EXPORT_LEN_MAX, Fault, Opened, RECORD_LEN_MAX, Session, record_len, sealed_len_max,
};

const SECRET_LENS: [usize; 6] = [32, 48, 32, 28, 44, 44];

struct Side {
    session: Session,
    /// Bytes on their way from this side.
    wire: Vec<u8>,
    /// Bytes sealed and opened. The n-th byte is `n % 251`.
    said: usize,
    heard: usize,
    has_failed: bool,
    has_ended: bool,
    has_heard_close: bool,
    /// The bytes in `wire` are unchanged.
    is_intact: bool,
}

pub(crate) fn check(decisions: &[u8]) {
    if let Ok(session) = Session::import(decisions) {
        let again = session.export().expect("a session that was imported has not failed");
        assert_eq!(*again, decisions, "one form for one session");
    }
    let Some((&first, mut rest)) = decisions.split_first() else { return };
    let suite = first % 6;
    // Near the limit of a key, or far from it.
    let sequence = if first / 6 % 2 == 0 { 0 } else { (1 << 24) - 7 };
    let mut sides = [true, false].map(|is_client| Side {
        session: session(suite, is_client, sequence),
        wire: Vec::new(),
        said: 0,
        heard: 0,
        has_failed: false,
        has_ended: false,
        has_heard_close: false,
        is_intact: true,
    });
    while let [step, argument, after @ ..] = rest {
        rest = after;
        let from = usize::from(step >> 7);
        act(&mut sides, from, step & 0x7f, usize::from(*argument), &mut rest);
    }
}

fn session(suite: u8, is_client: bool, sequence: u64) -> Session {
    let len = SECRET_LENS[usize::from(suite)];
    let mut secrets = [vec![1; len], vec![2; len]];
    if is_client {
        secrets.reverse();
    }
    let sequence = sequence.to_be_bytes();
    let parts = [&[1, suite, 0, 0, 0][..], &sequence, &secrets[0], &sequence, &secrets[1]];
    Session::import(&parts.concat()).expect("a session")
}

fn act(sides: &mut [Side; 2], from: usize, step: u8, argument: usize, decisions: &mut &[u8]) {
    let side = &mut sides[from];
    let before = side.wire.len();
    let at = argument.min(before);
    match step % 12 {
        0 => deliver(sides, from),
        1 => {
            let len = argument * 157;
            match side.session.seal(&saying(side.said, len), &mut side.wire) {
                Ok(()) => {
                    assert!(side.wire.len() - before <= sealed_len_max(len));
                    side.said += len;
                    assert!(!side.has_ended);
                }
                Err(_) => assert_eq!(side.wire.len(), before, "all or nothing"),
            }
        }
        2 => {
            let result = side.session.request_key_update(&mut side.wire);
            assert!(result.is_ok() || side.wire.len() == before);
        }
        3 => side.session.answer_key_update(&mut side.wire),
        4 => {
            side.session.close(&mut side.wire);
            assert!(!side.has_ended || side.wire.len() == before, "one last alert");
            side.has_ended = true;
        }
        5 => match side.session.export() {
            Some(bytes) => {
                assert!(bytes.len() <= EXPORT_LEN_MAX);
                side.session = Session::import(&bytes).expect("what was exported");
                assert_eq!(*side.session.export().expect("as before"), *bytes);
            }
            None => assert!(side.has_failed, "only a session that failed does not move"),
        },
        6 if at < before => {
            side.wire[at] ^= 1 << (step / 12 % 8);
            side.is_intact = false;
        }
        7 if at > 0 => {
            side.wire.drain(..at);
            side.is_intact = false;
        }
        8 if at > 0 => {
            side.wire.extend_from_within(..at);
            side.is_intact = false;
        }
        9 => {
            let (foreign, after) = decisions.split_at(argument.min(decisions.len()));
            *decisions = after;
            side.wire.extend_from_slice(foreign);
            side.is_intact &= foreign.is_empty();
        }
        10 => {
            // The first record goes to the end.
            if let Ok(Some(len)) = record_len(&side.wire)
                && len < before
            {
                side.wire.rotate_left(len);
                side.is_intact = false;
            }
        }
        _ => {}
    }
}

fn deliver(sides: &mut [Side; 2], from: usize) {
    let is_intact = sides[from].is_intact;
    let mut wire = std::mem::take(&mut sides[from].wire);
    let said = sides[from].said;
    let [first, second] = sides;
    let to = if from == 0 { second } else { first };
    let mut rest = &mut wire[..];
    while let Ok(Some(len)) = record_len(rest) {
        assert!(len <= RECORD_LEN_MAX);
        let Some((record, after)) = std::mem::take(&mut rest).split_at_mut_checked(len) else {
            return;
        };
        rest = after;
        match to.session.open(record) {
            Ok(Opened::Data(data)) => {
                assert!(!to.has_failed && !to.has_heard_close);
                assert!(!data.is_empty() && data == saying(to.heard, data.len()));
                to.heard += data.len();
                assert!(to.heard <= said);
            }
            Ok(Opened::Nothing) => assert!(!to.has_failed && !to.has_heard_close),
            Ok(Opened::Closed) => to.has_heard_close = true,
            Err(fault) => {
                assert!(to.has_failed == (fault == Fault::Ended));
                let is_ours = matches!(fault, Fault::NoData | Fault::Alert(_) | Fault::Ended);
                assert!(!is_intact || is_ours, "{fault}");
                let before = to.wire.len();
                to.session.end(fault, &mut to.wire);
                let alerts = usize::from(!to.has_ended && fault.alert().is_some());
                assert_eq!(to.wire.len() > before, alerts == 1);
                (to.has_failed, to.has_ended) = (true, true);
                assert!(to.session.export().is_none());
            }
        }
    }
}

/// The next `len` bytes of a side that has sent `said` bytes.
fn saying(said: usize, len: usize) -> Vec<u8> {
    (said..said + len).map(|number| (number % 251) as u8).collect()
}
