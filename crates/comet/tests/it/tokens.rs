//! The identity that each form of token gives a connection, and the tokens that are refused.

use comet::blocking_client::Ledger;
use comet_client::{Client, Transport};

use crate::peer::{CloseNotice, Peer};
use crate::support::{BOTH, Server, To, dropped, queued, received_until};

/// Pushes to each of `reached` must reach the client, and pushes to each of `absent` must match nothing; all with operation 5.
#[track_caller]
fn check_reach(server: &Server, client: &mut Client, reached: &[To<'_>], absent: &[To<'_>]) {
    for to in reached {
        assert_eq!(server.push(*to, 5, b"for you"), queued(1), "{to:?}");
    }
    for to in absent {
        let ledger = server.push(*to, 5, b"for nobody");
        assert_eq!((ledger.matched, ledger.queued), (0, 0), "{to:?}");
    }
    server.push(To::All, 5, b"end");
    let bodies = received_until(client, b"end");
    assert_eq!(bodies.len(), reached.len() + 1, "{bodies:?}");
}

#[test]
fn a_number_is_a_user_in_room_1_with_numbered_keys() {
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut first = server.client(transport, "42");
        check_reach(
            &server,
            &mut first,
            &[To::Keys(&["42_1"]), To::User(42), To::Room("1")],
            &[To::Keys(&["42_2"]), To::Keys(&["42"]), To::User(43), To::Room("2")],
        );
        let mut second = server.client(transport, "42");
        assert_eq!(server.push(To::Keys(&["42_2"]), 5, b"second"), queued(1));
        assert_eq!(server.push(To::User(42), 5, b"both"), queued(2));
        assert_eq!(received_until(&mut second, b"both"), [&b"second"[..], b"both"]);
        assert_eq!(received_until(&mut first, b"both"), [b"both"]);
        // A session number is not used again while the user has another session.
        second.close().unwrap();
        server.until("comet_keys", 1);
        let _third = server.client(transport, "42");
        assert_eq!(server.push(To::Keys(&["42_3"]), 5, b"third"), queued(1));
    }
}

#[test]
fn a_token_that_is_not_a_number_is_anonymous_without_a_room() {
    for transport in BOTH {
        for token in ["anna", "", "42 "] {
            let server = Server::start(&[]);
            let mut client = server.client(transport, token);
            let nowhere = [To::User(0), To::User(42), To::Room("1"), To::Keys(&["42_1"])];
            check_reach(&server, &mut client, &[], &nowhere);
            assert_eq!((server.metric("comet_users"), server.metric("comet_rooms")), (0, 0));
            // The number in its key depends on its core, which is not known here.
            let keys = ["0_1", "0_2"];
            let one_of_two = Ledger { absent: 1, ..queued(1) };
            assert_eq!(server.push(To::Keys(&keys), 5, b"by key"), one_of_two);
        }
    }
}

#[test]
fn json_tokens_name_key_room_and_operations() {
    let token =
        r#"{"mid":42,"key":"phone","room_id":"live://1000","platform":"web","accepts":[5]}"#;
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut client = server.client(transport, token);
        check_reach(
            &server,
            &mut client,
            &[To::Keys(&["phone"]), To::User(42), To::Room("live://1000")],
            &[To::Keys(&["42_1"]), To::Room("1")],
        );
        let filtered = dropped(queued(0), "filtered", 1);
        assert_eq!(server.push(To::Keys(&["phone"]), 6, b"not this"), filtered);
    }
}

#[test]
fn json_without_a_key_is_reached_by_user_and_room() {
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut client = server.client(transport, r#"{"mid":42,"room_id":"r","accepts":[5]}"#);
        let (reached, absent) = ([To::User(42), To::Room("r")], [To::Keys(&["42_1"])]);
        check_reach(&server, &mut client, &reached, &absent);
        assert_eq!(server.metric("comet_keys"), 1);
    }
}

#[test]
fn json_without_operations_accepts_none_but_is_in_its_room() {
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut client = server.client(transport, r#"{"mid":42,"key":"k","room_id":"r"}"#);
        let filtered = dropped(queued(0), "filtered", 1);
        for to in [To::Keys(&["k"]), To::User(42), To::All] {
            assert_eq!(server.push(to, 5, b"filtered"), filtered, "{to:?}");
        }
        assert_eq!(server.push(To::Room("r"), 5, b"room"), queued(1));
        assert_eq!(received_until(&mut client, b"room"), [b"room"]);
    }
}

#[test]
fn invalid_tokens_are_refused_with_a_reason() {
    let server = Server::start(&[]);
    let long = format!(r#"{{"mid":1,"key":"{}"}}"#, "x".repeat(257));
    let cases = [
        (r#"{"mid":"42"}"#, "the token does not fit: invalid type: string \"42\", expected i64"),
        ("{", "the token does not fit: EOF while parsing an object"),
        (&long, "the token's key is longer than 256 bytes"),
    ];
    for transport in BOTH {
        for (token, sentence) in cases {
            let mut peer = Peer::open(&server, transport);
            peer.send(7, 1, token.as_bytes());
            let CloseNotice { reason, close } = peer.close_notice();
            assert!(reason.starts_with(sentence), "{token}: {reason}");
            let text = format!("auth_refused: {reason}");
            let expected = (transport == Transport::WebSocket).then_some((1008, text));
            assert_eq!(close, expected, "{token}");
        }
    }
    let metrics = server.metrics();
    assert_eq!(metrics.closed("auth_refused"), 2 * cases.len() as u64);
    assert_eq!(metrics.value("comet_authenticated_total"), 0);
}
