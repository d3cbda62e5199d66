//! Pushes of every kind: the clients that they reach, the exact ledger, the exact bytes, and the operation filter.

use std::time::{Duration, Instant};

use comet::blocking_client::Ledger;
use comet_client::{Client, Transport, op};

use crate::peer::{BINARY, Peer, frame};
use crate::support::{BOTH, Server, To, dropped, queued, received, received_until, try_push};

#[test]
fn every_kind_of_push_reaches_exactly_its_targets() {
    let server = Server::start(&[]);
    let mut clients: Vec<Client> = [
        (Transport::Tcp, "42"),
        (Transport::WebSocket, "42"),
        (Transport::Tcp, "43"),
        (Transport::WebSocket, "44"),
        (Transport::Tcp, "anna"),
    ]
    .into_iter()
    .map(|(transport, token)| server.client(transport, token))
    .collect();
    clients[2].join("red").unwrap();
    clients[3].join("red").unwrap();

    let absent = |ledger: Ledger, absent| Ledger { absent, ..ledger };
    let cases: &[(To<'_>, Ledger, &[usize])] = &[
        (To::Keys(&["42_1"]), queued(1), &[0]),
        (To::Keys(&["44_1", "42_2"]), queued(2), &[1, 3]),
        (To::Keys(&["43_1", "gone", "43_1", "43_2"]), absent(queued(1), 2), &[2]),
        (To::Keys(&["gone"]), absent(queued(0), 1), &[]),
        (To::User(42), queued(2), &[0, 1]),
        (To::User(43), queued(1), &[2]),
        (To::User(99), absent(queued(0), 1), &[]),
        (To::User(0), absent(queued(0), 1), &[]),
        (To::Room("red"), queued(2), &[2, 3]),
        (To::Room("1"), queued(2), &[0, 1]),
        (To::Room("nobody's"), queued(0), &[]),
        (To::All, queued(5), &[0, 1, 2, 3, 4]),
    ];
    let mut expected: [Vec<Vec<u8>>; 5] = Default::default();
    for (index, (to, ledger, receivers)) in cases.iter().enumerate() {
        let body = format!("push {index}");
        assert_eq!(server.push(*to, 5, body.as_bytes()), *ledger, "{to:?}");
        for receiver in *receivers {
            expected[*receiver].push(body.clone().into_bytes());
        }
    }
    assert_eq!(server.push(To::All, 5, b"end"), queued(5));
    for (index, (client, mut expected)) in clients.iter_mut().zip(expected).enumerate() {
        expected.push(b"end".to_vec());
        assert_eq!(received_until(client, b"end"), expected, "client {index}");
    }
    let metrics = server.metrics();
    let deliveries: u64 = cases.iter().map(|(_, ledger, _)| ledger.queued).sum();
    assert_eq!(metrics.value("comet_queued_total"), deliveries + 5);
    assert_eq!(metrics.by_label("comet_dropped_total"), []);
}

#[test]
fn a_push_is_one_frame_with_the_callers_operation() {
    let server = Server::start(&[]);
    // The lengths at which the form of the WebSocket header changes; the last one is push.frame_max.
    let bodies: Vec<Vec<u8>> =
        [0, 1, 109, 110, 65_519, 65_520, 4 << 20].map(|len| vec![0xa5; len]).into();
    for transport in BOTH {
        let mut peer = Peer::live_1(&server, transport, "42");
        for body in &bodies {
            assert_eq!(server.push(To::User(42), 1000, body), queued(1));
            assert!(peer.read_frame() == frame(1000, 0, body), "{} bytes", body.len());
        }
        drop(peer);
        server.until("comet_connections", 0);
    }
}

/// goim's job sends up to 20 messages to a room as one batch.
#[test]
fn a_batch_of_long_messages_arrives_whole() {
    let server = Server::start(&[]);
    let batch = frame(1000, 0, &[7; 60_000]).repeat(20);
    for transport in BOTH {
        let mut peer = Peer::live_1(&server, transport, "42");
        // The client reads nothing until both are pushed.
        for _ in 0..2 {
            assert_eq!(server.push(To::Room("1"), op::RAW, &batch), queued(1));
        }
        for _ in 0..2 {
            match transport {
                Transport::Tcp => assert!(peer.read(batch.len()) == batch),
                Transport::WebSocket => {
                    assert!(peer.read_websocket() == (BINARY, frame(op::RAW, 0, &batch)));
                }
            }
        }
        drop(peer);
        server.until("comet_connections", 0);
    }
}

#[test]
fn a_batch_keeps_its_inner_frames_byte_for_byte() {
    let batch = [
        frame(1000, 7, b"one"),
        frame(5, 0, b""),
        frame(1001, -1, &[0xff; 300]),
        frame(5, 1, b"four"),
    ]
    .concat();
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut peer = Peer::live_1(&server, transport, "42");
        for to in [To::Keys(&["42_1"]), To::User(42), To::Room("1"), To::All] {
            assert_eq!(server.push(to, op::RAW, &batch), queued(1), "{to:?}");
            match transport {
                Transport::Tcp => assert_eq!(peer.read(batch.len()), batch, "{to:?}"),
                Transport::WebSocket => {
                    let one_message = (BINARY, frame(op::RAW, 0, &batch));
                    assert_eq!(peer.read_websocket(), one_message, "{to:?}");
                }
            }
            // The next message is the reply to a heartbeat, so the batch had no other bytes.
            assert_eq!(peer.online(), 1);
        }
    }
}

#[test]
fn the_client_library_splits_a_batch() {
    let server = Server::start(&[]);
    let batch = [frame(5, 0, b"one"), frame(5, 0, b"two")].concat();
    let mut clients = BOTH.map(|transport| server.client(transport, "42"));
    assert_eq!(server.push(To::Room("1"), op::RAW, &batch), queued(2));
    for client in &mut clients {
        assert_eq!(received_until(client, b"two"), [b"one", b"two"]);
    }
}

#[test]
fn accepted_operations_filter_keys_users_and_broadcasts_but_not_rooms() {
    check_filter(&[], &queued(1));
}

#[test]
fn with_filter_rooms_accepted_operations_filter_rooms_too() {
    check_filter(&["protocol.filter_rooms=true"], &dropped(queued(0), "filtered", 1));
}

/// `room`: the ledger of a room push whose operation the client does not accept.
fn check_filter(sets: &[&str], room: &Ledger) {
    let token = r#"{"mid":42,"key":"k","room_id":"r","accepts":[1000,1001]}"#;
    for transport in BOTH {
        let server = Server::start(sets);
        let mut client = server.client(transport, token);
        let filtered = dropped(queued(0), "filtered", 1);
        let all = [To::Keys(&["k"]), To::User(42), To::All, To::Room("r")];
        for to in all {
            for operation in [1000, 1001] {
                assert_eq!(server.push(to, operation, b"accepted"), queued(1), "{to:?}");
                assert_eq!(received(&mut client), b"accepted");
            }
            let expected = if matches!(to, To::Room(_)) { room } else { &filtered };
            assert_eq!(server.push(to, 5, b"other"), *expected, "{to:?}");
        }
        server.push(To::All, 1000, b"end");
        let others = received_until(&mut client, b"end").len() - 1;
        assert_eq!(others as u64, room.queued);
        let filtered = 4 - room.queued;
        assert_eq!(server.metrics().dropped("filtered"), filtered);
    }
}

#[test]
fn a_paced_broadcast_reaches_every_client_once_at_its_speed() {
    const SPEED: u32 = 50;
    let server = Server::start(&[]);
    let filtered = server.client(Transport::Tcp, r#"{"mid":1,"accepts":[6]}"#);
    let mut clients: Vec<_> = (0..20).map(|index| server.client(BOTH[index % 2], "anna")).collect();
    let begin = Instant::now();
    let ledger = server.caller().broadcast(5, b"paced", Some(SPEED)).unwrap();
    assert_eq!(ledger, Some(Ledger { scheduled: 21, ..Ledger::default() }));
    for client in &mut clients {
        assert_eq!(received(client), b"paced");
    }
    // Each of the two cores visits its first connection at once.
    let least = Duration::from_secs(1) * 18 / SPEED;
    assert!(begin.elapsed() >= least, "{:?} for 20 at {SPEED}/s", begin.elapsed());
    server.until("comet_dropped_total{reason=\"filtered\"}", 1);
    assert_eq!(server.metric("comet_queued_total"), 20);

    assert_eq!(server.push(To::All, 5, b"end"), dropped(queued(20), "filtered", 1));
    for client in &mut clients {
        assert_eq!(received_until(client, b"end"), [b"end"]);
    }
    drop(filtered);
}

#[test]
fn a_refused_push_has_a_message_and_a_code() {
    let server = Server::start(&[]);
    let refused = try_push(server.caller(), To::Room(""), 5, b"x").unwrap_err();
    assert_eq!(refused.to_string(), "roomID is empty: name the room (InvalidArgument)");
}
