//! Sessions as bytes.

use comet_record::{EXPORT_LEN_MAX, Fault, Opened, Session};

use crate::forger::Forger;
use crate::peer::{SUITES, exported, open_all, pair, sealed};

fn moved(session: &Session) -> Session {
    let bytes = session.export().expect("it has not failed");
    assert!(bytes.len() <= EXPORT_LEN_MAX);
    let session = Session::import(&bytes).unwrap();
    assert_eq!(*session.export().unwrap(), *bytes, "nothing is lost");
    session
}

#[test]
fn a_session_goes_on_as_another_one() {
    for suite in SUITES {
        let (mut client, mut server) = pair(suite);
        for round in 0..5_u8 {
            let mut out = sealed(&mut client, &[round; 3]);
            if suite.0 < 3 {
                client.request_key_update(&mut out).unwrap();
            }
            assert_eq!(open_all(&mut server, &out), Ok((vec![round; 3], false)));
            server = moved(&server);
            assert_eq!(server.owes_key_update(), suite.0 < 3);
            let out = sealed(&mut server, b"answer");
            server = moved(&server);
            client = moved(&client);
            assert_eq!(open_all(&mut client, &out), Ok((b"answer".to_vec(), false)));
        }
        let mut out = Vec::new();
        server.close(&mut out);
        server = moved(&server);
        assert!(server.seal(b"more", &mut Vec::new()).is_err());
        assert_eq!(open_all(&mut client, &out), Ok((vec![], true)));
        assert_eq!(moved(&client).open(&mut out), Ok(Opened::Closed));
    }
}

#[test]
fn half_a_key_update_moves() {
    let (_, mut server) = pair(SUITES[0]);
    let mut forger = Forger::tls13();
    for byte in [24, 0, 0, 1, 1] {
        assert_eq!(server.open(&mut forger.record(22, &[byte], 0)), Ok(Opened::Nothing));
        server = moved(&server);
    }
    assert!(server.owes_key_update());
}

#[test]
fn a_session_that_has_failed_does_not_move() {
    let (_, mut server) = pair(SUITES[0]);
    assert_eq!(server.open(&mut [21, 3, 3, 0, 0]), Err(Fault::Unexpected));
    assert!(server.export().is_none());
}

#[test]
fn bytes_that_are_no_session_are_refused() {
    let good = exported(SUITES[0], false, [3, 4]);
    assert!(Session::import(&good).is_ok());
    for len in 0..good.len() {
        assert!(Session::import(&good[..len]).is_err(), "{len} bytes");
    }
    assert!(Session::import(&[&good[..], &[0]].concat()).is_err(), "too long");
    let tls12 = exported(SUITES[3], false, [3, 4]);
    // An invalid format, suite, flags, count and piece of a message, and key updates with TLS 1.2.
    for (bytes, at, value) in [
        (&good, 0, 2),
        (&good, 1, 6),
        (&good, 2, 8),
        (&good, 3, 33),
        (&good, 4, 5),
        (&tls12, 2, 4),
        (&tls12, 4, 1),
    ] {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        assert!(Session::import(&bytes).is_err(), "byte {at} is {value}");
    }
    assert!(Session::import(&exported(SUITES[0], false, [0, (1 << 24) - 3])).is_ok());
    assert!(Session::import(&exported(SUITES[0], false, [0, (1 << 24) - 2])).is_err());
}

/// Later versions read the output of this one.
#[test]
fn the_format_is_fixed() {
    let (mut client, mut server) = pair(SUITES[3]);
    open_all(&mut server, &sealed(&mut client, b"data")).unwrap();
    let expected = [
        &[1, 3, 0, 0, 0][..],
        &[0, 0, 0, 0, 0, 0, 0, 1],
        &[1; 28],
        &[0, 0, 0, 0, 0, 0, 0, 0],
        &[2; 28],
    ];
    assert_eq!(**server.export().unwrap(), *expected.concat());
}
