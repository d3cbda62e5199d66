//! The requests of a client, and the replies to them.

use comet_client::{Transport, op};

use crate::peer::{Peer, UPGRADE, frame, message};
use crate::support::{BOTH, Server, To, dropped, queued, received_until, until};

#[test]
fn replies_carry_the_sequence_of_their_request() {
    let nobody = 0_i32.to_be_bytes();
    // Request and its body; operation and body of the reply. At first the client is in no room.
    let cases: &[(i32, &[u8], i32, &[u8])] = &[
        (op::HEARTBEAT, b"", op::HEARTBEAT_REPLY, &nobody),
        (op::HEARTBEAT, b"a body nobody asked for", op::HEARTBEAT_REPLY, &nobody),
        (op::SEND, b"to logic", op::SEND, b""),
        (op::SUBSCRIBE, b"1000,1001", op::SUBSCRIBE_REPLY, b"1000,1001"),
        (op::UNSUBSCRIBE, b"1000, 1001", op::UNSUBSCRIBE_REPLY, b"1000, 1001"),
        (op::SUBSCRIBE, b"", op::SUBSCRIBE_REPLY, b""),
        (op::CHANGE_ROOM, b"", op::CHANGE_ROOM_REPLY, b""),
        (op::CHANGE_ROOM, b"live://1000", op::CHANGE_ROOM_REPLY, b"live://1000"),
        (op::CHANGE_ROOM, b"live://1000", op::CHANGE_ROOM_REPLY, b"live://1000"),
        (op::HEARTBEAT, b"", op::HEARTBEAT_REPLY, &[0, 0, 0, 1]),
        (op::CHANGE_ROOM, b"", op::CHANGE_ROOM_REPLY, b""),
        (op::HEARTBEAT, b"", op::HEARTBEAT_REPLY, &nobody),
        // Unknown operations are answered with the same operation, without a body.
        (0, b"x", 0, b""),
        (1000, b"x", 1000, b""),
        (-5, b"x", -5, b""),
        (i32::MAX, &[7; 4096], i32::MAX, b""),
    ];
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut peer = Peer::live(&server, transport, "anna");
        let sequences = [0, 1, -1, i32::MAX, i32::MIN].into_iter().cycle();
        for (&(request, body, reply, answer), sequence) in cases.iter().zip(sequences) {
            let expected = message(reply, sequence, answer);
            assert_eq!(peer.ask(request, sequence, body), expected, "op {request}");
        }
        let metrics = server.metrics();
        assert_eq!(metrics.value("comet_frames_in_total"), cases.len() as u64 + 1);
        assert_eq!(metrics.value("comet_heartbeats_total"), 4);
        assert_eq!(metrics.value("comet_received_total"), 5);
    }
}

#[test]
fn frames_before_the_token_are_ignored() {
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut peer = Peer::open(&server, transport);
        for operation in [op::HEARTBEAT, op::CHANGE_ROOM, op::RAW, 1000] {
            peer.send(operation, 5, b"too early");
        }
        peer.authenticate("anna");
        assert_eq!(peer.online(), 0, "the client is in no room");
        assert_eq!(server.metric("comet_frames_ignored_total"), 4);
    }
}

#[test]
fn heartbeats_report_the_members_of_the_room_on_all_cores() {
    let server = Server::start(&[]);
    let mut peers: Vec<_> = [0, 1, 1, 0, 1]
        .into_iter()
        .zip(BOTH.into_iter().cycle())
        .map(|(core, transport)| {
            let mut peer = Peer::over(server.connect_on(core, transport), transport);
            peer.upgrade();
            peer.authenticate("42");
            peer
        })
        .collect();
    let mut outsider = Peer::live(&server, Transport::Tcp, "anna");
    while !peers.is_empty() {
        let online = i32::try_from(peers.len()).unwrap();
        for (index, peer) in peers.iter_mut().enumerate() {
            until(&format!("{online} online by peer {index}"), || peer.online() == online);
        }
        assert_eq!(outsider.online(), 0);
        // In turn one client leaves the room, and another one disconnects.
        let mut leaver = peers.remove(0);
        if peers.len() % 2 == 0 {
            assert_eq!(leaver.ask(op::CHANGE_ROOM, 1, b""), message(op::CHANGE_ROOM_REPLY, 1, b""));
            assert_eq!(leaver.online(), 0);
        }
    }
    server.until("comet_rooms", 0);
}

#[test]
fn pushes_follow_a_client_to_its_new_room() {
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut client = server.client(transport, "42");
        let mut neighbour = server.client(transport, "43");
        let rooms = ["1", "a", "b"];
        // The changes, and the room after each. A change to the same room has no effect.
        let changes =
            [None, Some("a"), Some("a"), Some("b"), Some(""), Some(""), Some("1"), Some("a")];
        let mut present = "1";
        let mut expected = Vec::new();
        for (step, change) in changes.into_iter().enumerate() {
            if let Some(room) = change {
                client.join(room).unwrap();
                present = room;
            }
            for room in rooms {
                let members = u64::from(room == present) + u64::from(room == "1");
                let body = format!("{step} to {room}");
                let ledger = server.push(To::Room(room), 5, body.as_bytes());
                assert_eq!(ledger, queued(members), "{body}");
                if room == present {
                    expected.push(body.into_bytes());
                }
            }
        }
        server.push(To::All, 5, b"end");
        expected.push(b"end".to_vec());
        assert_eq!(received_until(&mut client, b"end"), expected);
        assert_eq!(received_until(&mut neighbour, b"end").len(), changes.len() + 1);
    }
}

#[test]
fn subscriptions_change_which_operations_are_delivered() {
    let only_1000 = r#"{"mid":42,"key":"42_1","accepts":[1000]}"#;
    for (transport, token) in BOTH.into_iter().flat_map(|t| [(t, "42"), (t, only_1000)]) {
        let accepts_all = token == "42";
        let server = Server::start(&[]);
        let mut client = server.client(transport, token);
        let check = |operation, accepted| {
            let expected = if accepted { queued(1) } else { dropped(queued(0), "filtered", 1) };
            let ledger = server.push(To::Keys(&["42_1"]), operation, b"x");
            assert_eq!(ledger, expected, "{transport:?} {token}: op {operation}");
        };
        check(1000, true);
        check(1001, accepts_all);
        client.unsubscribe(&[1000, 1002]).unwrap();
        check(1000, false);
        check(1001, accepts_all);
        check(1002, false);
        client.subscribe(&[1001, 1002]).unwrap();
        check(1000, false);
        check(1001, true);
        check(1002, true);
        client.subscribe(&[1000]).unwrap();
        check(1000, true);
    }
}

/// The first frames may come in one segment with the upgrade. Each waits for the one before.
#[test]
fn frames_in_one_segment_are_answered_in_order() {
    for transport in BOTH {
        let server = Server::start(&[]);
        // Some rooms and some users have their home on the other core.
        for user in 1..=8 {
            let mut peer = Peer::connect(server.address(transport), transport);
            let mut segment = Vec::new();
            if transport == Transport::WebSocket {
                segment.extend(UPGRADE.as_bytes());
            }
            let room = format!("room {user}");
            let token = user.to_string();
            for (operation, sequence, body) in [
                (op::AUTH, 1, token.as_str()),
                (op::HEARTBEAT, 2, ""),
                (op::CHANGE_ROOM, 3, room.as_str()),
                (op::HEARTBEAT, 4, ""),
                (op::SEND, 5, "hello"),
                (op::CHANGE_ROOM, 6, ""),
                (op::HEARTBEAT, 7, ""),
            ] {
                segment.extend(peer.wrap(&frame(operation, sequence, body.as_bytes())));
            }
            peer.write(&segment);
            if transport == Transport::WebSocket {
                peer.expect_upgraded();
            }
            assert_eq!(peer.recv(), message(op::AUTH_REPLY, 1, b""));
            let in_room_1 = peer.recv();
            assert_eq!((in_room_1.operation, in_room_1.sequence), (op::HEARTBEAT_REPLY, 2));
            assert_eq!(peer.recv(), message(op::CHANGE_ROOM_REPLY, 3, room.as_bytes()));
            assert_eq!(peer.recv(), message(op::HEARTBEAT_REPLY, 4, &[0, 0, 0, 1]));
            assert_eq!(peer.recv(), message(op::SEND, 5, b""));
            assert_eq!(peer.recv(), message(op::CHANGE_ROOM_REPLY, 6, b""));
            assert_eq!(peer.recv(), message(op::HEARTBEAT_REPLY, 7, &[0, 0, 0, 0]));
        }
    }
}

#[test]
fn input_may_arrive_byte_by_byte() {
    for transport in BOTH {
        let server = Server::start(&[]);
        let mut peer = Peer::connect(server.address(transport), transport);
        let dribble = |peer: &mut Peer, bytes: &[u8]| {
            for byte in bytes {
                peer.write(&[*byte]);
            }
        };
        if transport == Transport::WebSocket {
            dribble(&mut peer, UPGRADE.as_bytes());
            peer.expect_upgraded();
        }
        for (request, body, reply, echo) in [
            (op::AUTH, &b"42"[..], op::AUTH_REPLY, &b""[..]),
            (op::CHANGE_ROOM, b"a", op::CHANGE_ROOM_REPLY, b"a"),
            (op::SEND, &[7; 200], op::SEND, b""),
        ] {
            let bytes = peer.wrap(&frame(request, 9, body));
            dribble(&mut peer, &bytes);
            assert_eq!(peer.recv(), message(reply, 9, echo));
        }
        assert_eq!(server.push(To::Room("a"), 5, b"hi"), queued(1));
        assert_eq!(peer.recv(), message(5, 0, b"hi"));
    }
}
