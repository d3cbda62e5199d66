//! A client that loses its connection comes back, on the same core or another one, and gets the pushes that it missed.

use std::thread;
use std::time::Duration;

use comet::blocking_client::{Ledger, PushClient};
use comet_client::{Client, Options, Resumed, Transport};

use crate::process;
use crate::stopped::Stop;
use crate::support::{BOTH, Metrics, PATIENCE, Server, To, dropped, push, queued, received, until};

const SETS: [&str; 2] = ["resume.window=\"30s\"", "resume.messages=4"];
const TOKEN: &str = r#"{"mid":42,"key":"k","accepts":[5]}"#;

fn connect(server: &Server, transport: Transport) -> Client {
    let address = server.address(transport).to_string();
    let options = match transport {
        Transport::Tcp => Options::tcp(address, TOKEN),
        Transport::WebSocket => Options::websocket(address, "/sub", TOKEN),
    };
    options.keep_session().timeout(PATIENCE).connect().expect("the server takes the token")
}

fn parked() -> Ledger {
    Ledger { parked: 1, ..queued(0) }
}

#[test]
fn a_client_that_comes_back_gets_missed_pushes_in_order() {
    let server = Server::start(&SETS);
    let mut client = connect(&server, Transport::Tcp);
    assert_eq!(client.resumed(), None);
    // Connections are distributed over the cores. In eight rounds each core loses and gets some.
    for round in 1..=8 {
        assert_eq!(server.push(To::Keys(&["k"]), 5, b"live"), queued(1));
        assert_eq!(received(&mut client), b"live");
        // The connection ends without a goodbye, so the session is parked.
        drop(client);
        server.until("comet_sessions_parked_total", round);
        assert_eq!(server.push(To::Keys(&["k"]), 5, b"1"), parked());
        assert_eq!(server.push(To::User(42), 5, b"2"), parked());
        assert_eq!(server.push(To::Keys(&["k"]), 5, b"3"), parked());
        client = connect(&server, BOTH[round as usize % 2]);
        let resumed = Resumed { parked: 3, ..Resumed::default() };
        assert_eq!(client.resumed(), Some(resumed));
        assert_eq!(server.push(To::User(42), 5, b"4"), queued(1));
        for body in [b"1", b"2", b"3", b"4"] {
            assert_eq!(received(&mut client), body);
        }
    }
    let metrics = server.metrics();
    metrics.assert_balanced();
    assert_eq!(metrics.value("comet_resumed_total"), 24);
    assert_eq!(metrics.value("comet_parked_pushes"), 0);
}

#[test]
fn a_returning_client_learns_its_losses_and_a_goodbye_ends_its_session() {
    for transport in BOTH {
        let server = Server::start(&SETS);
        let client = connect(&server, transport);
        drop(client);
        server.until("comet_sessions_parked_total", 1);
        for _ in 0..4 {
            assert_eq!(server.push(To::Keys(&["k"]), 5, b"kept"), parked());
        }
        for _ in 0..2 {
            let full = dropped(queued(0), "parked_full", 1);
            assert_eq!(server.push(To::Keys(&["k"]), 5, b"lost"), full);
        }
        let client = connect(&server, transport);
        let resumed = Resumed { parked: 4, lost_full: 2, lost_memory: 0 };
        assert_eq!(client.resumed(), Some(resumed));
        client.close().unwrap();
        server.until("comet_keys", 0);
        let nobody = Ledger { absent: 1, ..queued(0) };
        assert_eq!(server.push(To::Keys(&["k"]), 5, b"to nobody"), nobody);
        server.metrics().assert_balanced();
    }
}

/// Most clients come back on another core than before.
#[test]
fn clients_that_come_back_to_a_stopped_server_get_missed_pushes() {
    const CLIENTS: u32 = 40;
    let server = process::Server::start(&["resume.window=\"1m\""]);
    let address = server.tcp.to_string();
    let connect = move |number: u32| {
        let token = format!(r#"{{"mid":42,"key":"k{number}","accepts":[5]}}"#);
        let options = Options::tcp(address.clone(), token).keep_session().timeout(PATIENCE);
        options.connect().expect("the server takes the token")
    };
    let clients: Vec<_> = (0..CLIENTS).map(&connect).collect();
    drop(clients);
    until("all sessions to be parked", || {
        Metrics::read(server.stat).value("comet_sessions_parked_total") == u64::from(CLIENTS)
    });
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    let parked = Ledger { parked: CLIENTS.into(), ..queued(0) };
    for body in [b"1", b"2", b"3"] {
        assert_eq!(push(&caller, To::User(42), 5, body), parked);
    }
    let stop = Stop::new(&server);
    // The kernel accepts their connections and tokens while the server is stopped.
    let returning: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let connect = connect.clone();
            thread::spawn(move || connect(number))
        })
        .collect();
    stop.end_after(Duration::from_millis(500));
    let mut clients: Vec<_> = returning.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(push(&caller, To::User(42), 5, b"4"), queued(CLIENTS.into()));
    for client in &mut clients {
        let resumed = Resumed { parked: 3, ..Resumed::default() };
        assert_eq!(client.resumed(), Some(resumed));
        for body in [b"1", b"2", b"3", b"4"] {
            assert_eq!(received(client), body);
        }
    }
    Metrics::read(server.stat).assert_balanced();
}
