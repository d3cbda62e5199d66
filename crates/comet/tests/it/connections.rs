//! Looking at the connections of a running server.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use comet_client::Transport;
use rustls::version::TLS13;
use serde_json::{Value, json};

use crate::peer::Peer;
use crate::process::Server as Process;
use crate::support::{BOTH, Server, To, get, http_with, received, until};
use crate::tls::{Certificates, live, plain};

/// A small buffer, so that little has to be pushed before a client is slow, and time to look at it.
const SMALL: [&str; 2] = ["tcp.sndbuf=65536", "protocol.write_timeout=\"60s\""];

fn list(stat: SocketAddr, parameters: &str) -> Value {
    let (status, body) = get(stat, &format!("/connections?{parameters}"));
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The keys of a list, in its order.
fn keys(list: &Value) -> Vec<&str> {
    list["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|conn| conn["key"].as_str().unwrap())
        .collect()
}

fn token(mid: i64, key: &str) -> String {
    json!({ "mid": mid, "key": key, "room_id": "live://1", "accepts": [5] }).to_string()
}

#[test]
fn connections_are_found_by_all_they_have() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[r#"tcp.proxy_from=["127.0.0.0/8"]"#, "log.level=\"off\""]);
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.9 56324 3101\r\n";
    let mut stream = plain(server.address(Transport::Tcp));
    stream.write_all(header).unwrap();
    let mut proxied = Peer::over(stream, Transport::Tcp);
    proxied.authenticate(&token(1, "proxied"));
    let all = list(server.stat(), "sort=age");
    assert_eq!(
        (keys(&all), &all["matched"], &all["next"]),
        (vec!["proxied"], &json!(1), &Value::Null)
    );
    let conn = &all["connections"][0];
    let expected = [
        ("mid", json!(1)),
        ("room", json!("live://1")),
        ("address", json!("192.0.2.7:56324")),
        ("transport", json!("tcp")),
        ("tls", json!(false)),
        ("waiting_bytes", json!(0)),
        ("accepts", json!("only")),
        ("operations", json!([5])),
        ("state", json!("live")),
    ];
    for (name, value) in expected {
        assert_eq!(conn[name], value, "{conn}");
    }
    for (parameters, found) in [
        ("key=proxied", 1),
        ("key=other", 0),
        ("mid=1", 1),
        ("mid=2", 0),
        ("room=live://1", 1),
        ("room=live://2", 0),
        ("address=192.0.2.0/24", 1),
        ("address=192.0.2.7", 1),
        ("address=192.0.2.8", 0),
        ("transport=websocket", 0),
        ("tls=true", 0),
    ] {
        assert_eq!(list(server.stat(), parameters)["matched"], found, "{parameters}");
    }
    let busiest = list(server.stat(), "sort=rate");
    assert!(busiest["connections"][0]["bytes_per_second"].as_u64() > Some(0), "{busiest}");
    assert_eq!(get(server.stat(), "/connections?sort=speed").0, 400);
}

#[test]
fn tls_and_both_transports_are_told_apart() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[]);
    let config = Arc::new(certificates.client(&[&TLS13]));
    // Each has a key of its own: of two with one key only one stays.
    let name = |of: &str, transport: Transport| format!("{of} {transport:?}");
    let _plain =
        BOTH.map(|transport| server.client(transport, &token(1, &name("plain", transport))));
    let _tls =
        BOTH.map(|transport| live(&server, transport, &config, &token(2, &name("tls", transport))));
    for (parameters, found) in [("transport=tcp", "tcp"), ("transport=websocket", "websocket")] {
        let listed = list(server.stat(), &format!("{parameters}&tls=true"));
        let conn = &listed["connections"][0];
        assert_eq!((&conn["transport"], &conn["tls"]), (&json!(found), &json!(true)), "{listed}");
    }
}

#[test]
fn a_client_that_does_not_read_comes_first_and_pages_have_all() {
    let server = Server::start(&SMALL);
    let _others: Vec<_> = (0..6)
        .map(|number| server.client(BOTH[number % 2], &token(1, &format!("k{number}"))))
        .collect();
    let mut stuck = Peer::open(&server, Transport::Tcp);
    stuck.authenticate(&token(7, "stuck"));
    let mut first = Value::Null;
    until("the outbox to hold something", || {
        server.push(To::User(7), 5, &[0; 64 << 10]);
        first = list(server.stat(), "limit=1");
        first["connections"][0]["waiting_bytes"].as_u64() > Some(0)
    });
    assert_eq!((keys(&first), &first["matched"]), (vec!["stuck"], &json!(7)), "{first}");
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = list(server.stat(), &format!("sort=age&limit=3&cursor={cursor}"));
        found.extend(keys(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        cursor = next.to_owned();
    }
    found.sort();
    assert_eq!(found, ["k0", "k1", "k2", "k3", "k4", "k5", "stuck"]);
}

#[test]
fn busy_rooms_and_slow_clients_are_in_the_top_lists() {
    let server = Server::start(&SMALL);
    let mut client = server.client(Transport::WebSocket, &token(1, "fast"));
    let mut stuck = Peer::open(&server, Transport::Tcp);
    stuck.authenticate(&token(7, "stuck"));
    let top = || {
        let (status, body) = get(server.stat(), "/top");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let mut pushes = 0;
    let mut seen = Value::Null;
    // On a loaded machine the other one may be late, too.
    let late_bytes = |top: &Value| {
        let clients = top["clients"].as_array().unwrap();
        let stuck = clients.iter().find(|client| client["key"] == "stuck");
        stuck.map(|client| client["late_bytes"].as_u64().unwrap())
    };
    until("the client to be known as slow", || {
        server.push(To::Room("live://1"), 5, &[0; 64 << 10]);
        received(&mut client);
        pushes += 1;
        seen = top();
        late_bytes(&seen) > Some(0)
    });
    let busiest = &seen["rooms"][0];
    assert_eq!(busiest["room"], "live://1");
    let deliveries = busiest["deliveries"].as_u64().unwrap();
    assert!((1..=2 * pushes).contains(&deliveries), "{pushes} pushes, {busiest}");
}

#[test]
fn callers_need_the_token_of_the_monitor() {
    const TOKEN: &str = "a-token-that-nobody-guesses";
    let server = Process::start(&[&format!("monitor.tokens=[\"{TOKEN}\"]")]);
    assert_eq!(get(server.stat, "/connections").0, 401);
    let header = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(http_with(server.stat, "GET", "/connections", &header, b"").0, 200);
}
