//! Many connections at once: everybody gets everything, in one order, and the sums are equal.

use std::thread;

use comet::blocking_client::{Ledger, PushClient};
use comet_client::{Client, Transport};

use crate::support::{BOTH, Server, To, push, queued, received, received_until};

const ROOMS: usize = 10;
const PUSHES: usize = 50;

/// `each` clients of both transports, spread over the rooms; a client's room is its index modulo the
/// number of rooms.
fn crowd(server: &Server, each: usize) -> Vec<Client> {
    (0..2 * each)
        .map(|index| {
            let room = index % ROOMS;
            let token = format!(r#"{{"mid":{},"room_id":"room {room}","accepts":[5]}}"#, index + 1);
            server.client(BOTH[index / each], &token)
        })
        .collect()
}

/// A caller for each room, all at once; returns every ledger.
fn push_to_all_rooms(server: &Server) -> Vec<Ledger> {
    let address = server.grpc().to_string();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..ROOMS)
            .map(|room| {
                let address = &address;
                scope.spawn(move || {
                    let caller = PushClient::connect(address).unwrap();
                    let room = format!("room {room}");
                    let one = |number| {
                        let body = format!("{room}: {number}");
                        push(&caller, To::Room(&room), 5, body.as_bytes())
                    };
                    (0..PUSHES).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    })
}

#[test]
fn four_hundred_in_ten_rooms_get_every_push_in_order() {
    let server = Server::start(&[]);
    let mut clients = crowd(&server, 200);
    assert!(server.connections().iter().all(|on_core| *on_core > 100), "both cores work");
    let members = clients.len() / ROOMS;
    for ledger in push_to_all_rooms(&server) {
        assert_eq!(ledger, queued(members as u64));
    }
    for (index, client) in clients.iter_mut().enumerate() {
        for number in 0..PUSHES {
            let expected = format!("room {}: {number}", index % ROOMS);
            assert_eq!(received(client), expected.as_bytes(), "client {index}");
        }
    }
    assert_eq!(server.push(To::All, 5, b"end"), queued(clients.len() as u64));
    for client in &mut clients {
        assert_eq!(received(client), b"end");
    }
    let deliveries = (clients.len() * (PUSHES + 1)) as u64;
    server.until("comet_sent_total", deliveries);
    let metrics = server.metrics();
    assert_eq!(metrics.value("comet_matched_total"), deliveries);
    assert_eq!(metrics.value("comet_waiting"), 0);
}

/// Rings, inboxes and receive buffers as small as they may be: slower, and counted where something is
/// dropped between cores, but nothing else is lost, doubled or out of order.
#[test]
fn the_smallest_limits_lose_nothing_uncounted() {
    let server = Server::start(&[
        "limits.ring_entries=16",
        "limits.recv_buffers=16",
        "limits.recv_buffer_size=256",
        "limits.mesh_inbox=16",
        "limits.mesh_backlog=16",
        "bucket.count=1",
    ]);
    let mut clients = crowd(&server, 50);
    let ledgers = push_to_all_rooms(&server);
    let members = (clients.len() / ROOMS) as u64;
    for ledger in &ledgers {
        assert_eq!(ledger.matched, members, "{ledger}");
        assert!(ledger.dropped.keys().all(|reason| reason == "mesh_full"), "{ledger}");
    }
    let queued: u64 = ledgers.iter().map(|ledger| ledger.queued).sum();
    server.until("comet_sent_total", queued);
    server.push(To::All, 5, b"end");
    let mut got = 0;
    for (index, client) in clients.iter_mut().enumerate() {
        let mut bodies = received_until(client, b"end");
        bodies.pop();
        got += bodies.len() as u64;
        let mut all = (0..PUSHES).map(|number| format!("room {}: {number}", index % ROOMS));
        for body in bodies {
            assert!(all.any(|expected| expected.as_bytes() == body), "client {index}: order");
        }
    }
    assert_eq!(got, queued);
    // Far more input at once than there are receive buffers.
    for client in &mut clients {
        for _ in 0..4 {
            client.send(1000, &[7; 4096]).unwrap();
        }
    }
    for client in &mut clients {
        for _ in 0..4 {
            assert_eq!(received(client), b"", "the echo of what was sent");
        }
    }
}

#[test]
fn two_callers_to_one_room_are_heard_by_all_in_one_order() {
    const EACH: usize = 200;
    let server = Server::start(&["protocol.svr_proto=1000"]);
    let mut clients: Vec<_> = (0..8).map(|index| server.client(BOTH[index % 2], "42")).collect();
    let address = server.grpc().to_string();
    thread::scope(|scope| {
        for caller in ["left", "right"] {
            let address = &address;
            scope.spawn(move || {
                let client = PushClient::connect(address).unwrap();
                for number in 0..EACH {
                    let body = format!("{caller} {number}");
                    assert_eq!(push(&client, To::Room("1"), 5, body.as_bytes()), queued(8));
                }
            });
        }
    });
    server.push(To::All, 5, b"end");
    let mut heard = clients.iter_mut().map(|client| received_until(client, b"end"));
    let first = heard.next().unwrap();
    assert!(heard.all(|other| other == first), "all hear one order");
    assert_eq!(first.len(), 2 * EACH + 1);
    for caller in ["left", "right"] {
        let of_caller: Vec<_> =
            first.iter().filter(|body| body.starts_with(caller.as_bytes())).collect();
        let expected: Vec<_> = (0..EACH).map(|number| format!("{caller} {number}")).collect();
        assert!(
            of_caller.iter().zip(&expected).all(|(body, expected)| **body == expected.as_bytes())
        );
    }
}

/// Connections that come and go while pushes run: each push is queued for whom the ledger says.
#[test]
fn coming_and_going_under_pushes_keeps_the_books() {
    let server = Server::start(&[]);
    let mut steady: Vec<_> = BOTH.map(|transport| server.client(transport, "1")).into();
    let address = server.grpc().to_string();
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let client = PushClient::connect(&address).unwrap();
            for number in 0..300 {
                let body = format!("{number}");
                let to = [To::Room("1"), To::User(1), To::All][number % 3];
                let ledger = push(&client, to, 5, body.as_bytes());
                assert!(ledger.queued >= 2, "{ledger}");
            }
        });
        let mut round = 0;
        while !caller.is_finished() {
            for transport in BOTH {
                let mut client = server.client(transport, "1");
                client.join(["1", "2", ""][round % 3]).unwrap();
                round += 1;
            }
        }
        caller.join().unwrap();
        assert!(round > 0);
    });
    server.push(To::All, 5, b"end");
    for client in &mut steady {
        let numbers: Vec<_> = (0..300).map(|number: u32| number.to_string().into_bytes()).collect();
        let heard = received_until(client, b"end");
        assert_eq!(heard[..300], numbers);
    }
    drop(steady);
    for gauge in ["comet_connections", "comet_keys", "comet_users", "comet_rooms", "comet_waiting"]
    {
        server.until(gauge, 0);
    }
    server.drain();
}

#[test]
fn a_hundred_leave_at_once_and_nothing_is_left() {
    let server = Server::start(&[]);
    let clients = crowd(&server, 50);
    assert_eq!(server.push(To::All, 5, b"hi"), queued(100));
    drop(clients);
    for gauge in ["comet_connections", "comet_live", "comet_keys", "comet_users", "comet_rooms"] {
        server.until(gauge, 0);
    }
    let mut one = server.client(Transport::Tcp, "1");
    assert_eq!(server.push(To::All, 5, b"hi"), queued(1));
    assert_eq!(received(&mut one), b"hi");
}
