//! Operations on a running server: drain it, undo that, move clients off, block networks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use comet_client::{Transport, op};
use comet_wire::comet::v1::DrainReq;
use comet_wire::comet::v1::node_client::NodeClient;
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::discovery::sets;
use crate::discovery_node::Node;
use crate::monitor::stat_of_both_cores;
use crate::peer::{CloseNotice, Peer, frame};
use crate::process::{Server, line_with};
use crate::support::{Metrics, PATIENCE, get, http, until};

fn start(sets: &[&str]) -> (Server, SocketAddr) {
    let server = Server::start(sets);
    let line = line_with(&server.log, "http push [");
    let address = line.split(['[', ']']).find_map(|part| part.parse().ok());
    (server, address.unwrap_or_else(|| panic!("{line}")))
}

/// The data of the answer to a request below `/comet/node/`.
#[track_caller]
fn request(http_push: SocketAddr, method: &str, path: &str) -> Value {
    let (status, answer) = http(http_push, method, &format!("/comet/node/{path}"), b"");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status, &answer["code"]), (200, &json!(0)), "{path}: {answer}");
    answer["data"].clone()
}

fn health_check(server: &Server) -> (u16, String) {
    get(server.stat, "/healthz")
}

fn draining() -> (u16, String) {
    (503, "draining\n".to_owned())
}

/// Whether the server accepts a client. If not, it closes the connection without a reply.
fn accepts_client(server: &Server) -> bool {
    accepts_client_behind(server, b"")
}

/// The same behind a proxy that sends `header`.
fn accepts_client_behind(server: &Server, header: &[u8]) -> bool {
    let mut stream = TcpStream::connect(server.tcp).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = stream.write_all(&[header, &frame(op::AUTH, 1, b"/any//")].concat());
    sent.is_ok() && stream.read(&mut [0]).is_ok_and(|length| length > 0)
}

#[test]
fn a_server_drains_and_serves_again() {
    let discovery = Node::start();
    let sets = sets(&[discovery.address]);
    let (server, http_push) = start(&sets.iter().map(String::as_str).collect::<Vec<_>>());
    discovery.next("register");
    assert_eq!(request(http_push, "GET", "status")["phase"], "serving");
    let mut peers: Vec<_> = (1..=30)
        .map(|user| {
            server.live(
                Transport::Tcp,
                &json!({ "mid": user, "key": user.to_string(), "room_id": "", "accepts": [5] })
                    .to_string(),
            )
        })
        .collect();

    // During the delay the server is unhealthy and not in discovery, and still accepts clients.
    let status = request(http_push, "POST", "drain?delay_ms=3600000&per_second=1");
    assert_eq!(status["phase"], "leaving", "{status}");
    assert_eq!((&status["connections"], &status["moving_off"]), (&json!(30), &json!(0)));
    assert_eq!(health_check(&server), draining());
    assert_eq!(Metrics::read(server.stat).value("comet_draining"), 1);
    discovery.next("cancel");
    let mut late = server.live(Transport::Tcp, "/late//");
    late.ask(op::HEARTBEAT, 1, b"");

    // Then clients are closed at the configured rate, and new ones are refused.
    let status = request(http_push, "POST", "drain?delay_ms=0&per_second=1&retry_after_ms=5000");
    assert_eq!(status["phase"], "draining", "{status}");
    until("the rate to be known", || {
        request(http_push, "GET", "status")["moving_off"].as_u64() > Some(0)
    });
    assert!(!accepts_client(&server));
    assert_eq!(stat(&server)["drain"]["per_second"], 1);
    let status = request(http_push, "POST", "drain?delay_ms=0&per_second=1000&retry_after_ms=5000");
    assert_eq!(status["per_second"], 1_000, "{status}");
    for peer in peers.iter_mut().chain([&mut late]) {
        let CloseNotice { reason, .. } = peer.close_notice();
        assert!(reason.starts_with("draining; retry_after_ms="), "{reason}");
    }
    drop((peers, late));
    until("the last client to go", || request(http_push, "GET", "status")["phase"] == "drained");
    line_with(&server.log, "no client is left; the process goes on");
    assert!(!accepts_client(&server));

    let status = request(http_push, "POST", "undrain");
    assert_eq!(status["phase"], "serving", "{status}");
    assert_eq!(health_check(&server), (200, "ok\n".to_owned()));
    assert_eq!(request(http_push, "POST", "undrain"), status, "without effect");
    assert_eq!(stat(&server)["drain"], Value::Null);
    assert_eq!(Metrics::read(server.stat).value("comet_draining"), 0);
    discovery.next("register");
    // The cores learn of it a moment later.
    until("clients to be accepted", || accepts_client(&server));
    server.live(Transport::Tcp, "/again//").ask(op::HEARTBEAT, 1, b"");

    server.signal(Signal::TERM);
    discovery.next("cancel");
    assert_eq!(server.end().0, Some(0));
}

fn stat(server: &Server) -> Value {
    stat_of_both_cores(server.stat, "/stat")
}

#[test]
fn a_drain_that_keeps_clients_can_be_undone_at_any_time() {
    let (server, http_push) = start(&[]);
    let mut first = server.live(Transport::Tcp, "/first//");
    let status = request(http_push, "POST", "drain?keep_clients=true");
    assert_eq!((&status["phase"], &status["keeps_clients"]), (&json!("leaving"), &json!(true)));
    assert_eq!(health_check(&server), draining());
    let mut second = server.live(Transport::Tcp, "/second//");
    for peer in [&mut first, &mut second] {
        peer.ask(op::HEARTBEAT, 1, b"");
    }
    // Connections that were closed before `undrain` stay closed, and no other one is closed.
    request(http_push, "POST", "drain?per_second=1");
    request(http_push, "POST", "undrain");
    let left = request(http_push, "GET", "status")["connections"].as_u64().unwrap();
    assert!(left <= 2, "{left}");
    until("clients to be accepted", || accepts_client(&server));
    assert_eq!(health_check(&server).0, 200);
    server.live(Transport::Tcp, "/third//").ask(op::HEARTBEAT, 1, b"");
}

#[test]
fn a_signal_waits_for_load_balancers_as_well() {
    let (server, http_push) = start(&["server.drain_delay=\"1h\""]);
    let mut first = server.live(Transport::Tcp, "/first//");
    server.signal(Signal::TERM);
    until("the health check to fail", || health_check(&server) == draining());
    assert_eq!(request(http_push, "GET", "status")["phase"], "ending");
    server.live(Transport::Tcp, "/second//").ask(op::HEARTBEAT, 1, b"");
    first.ask(op::HEARTBEAT, 1, b"");
    let (_, answer) = http(http_push, "POST", "/comet/node/undrain", b"");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["message"], "a signal ends the process");
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(143));
}

#[test]
fn move_off_closes_the_given_number_of_clients() {
    let (server, http_push) = start(&[]);
    let peers: Vec<Peer> =
        (1..=20).map(|at| server.live(Transport::Tcp, &format!("/k{at}//"))).collect();
    let status = request(http_push, "POST", "move_off?count=8&per_second=1000000&retry_after_ms=9");
    assert_eq!(status["phase"], "serving");
    until("eight clients to be chosen", || request(http_push, "GET", "status")["moving_off"] == 0);
    until("eight clients to be closed", || stat(&server)["totals"]["closed"]["draining"] == 8);
    assert_eq!(health_check(&server).0, 200);
    // A slow move-off can be cancelled.
    let status = request(http_push, "POST", "move_off?count=12&per_second=1");
    assert_eq!(status["per_second"], 1, "{status}");
    request(http_push, "POST", "move_off/cancel");
    until("the cores to know", || request(http_push, "GET", "status")["moving_off"] == 0);
    assert!(stat(&server)["totals"]["closed"]["draining"].as_u64() < Some(20));
    drop(peers);
}

#[test]
fn invalid_orders_are_refused() {
    let (server, http_push) = start(&[]);
    for (path, code, sentence) in [
        ("move_off?count=0&per_second=1", -400, "count: \"0\" is not a whole number from 1"),
        ("move_off?count=1", -400, "per_second is missing"),
        ("drain?delay_ms=-1", -400, "delay_ms: \"-1\" is not a whole number from 0"),
        ("drain?keep_clients=yes", -400, "keep_clients: \"yes\" is none of true, false"),
    ] {
        let (_, answer) = http(http_push, "POST", &format!("/comet/node/{path}"), b"");
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["code"], code, "{path}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.starts_with(sentence), "{path}: {message}");
    }
    request(http_push, "POST", "drain?keep_clients=true");
    let (_, answer) = http(http_push, "POST", "/comet/node/move_off?count=1&per_second=1", b"");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["message"], "the server drains: that closes them all");
    // The same over gRPC.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc)).unwrap();
        let mut client = NodeClient::new(endpoint.connect().await.unwrap());
        let status = client.drain(DrainReq::default()).await.unwrap().into_inner();
        assert_eq!(status.phase, "draining");
        let order = comet_wire::comet::v1::MoveOffReq { count: 1, ..Default::default() };
        let refused = client.move_off(order).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    });
}

fn closed(server: &Server, reason: &str) -> u64 {
    stat(server)["totals"]["closed"][reason].as_u64().unwrap()
}

fn proxied(address: &str) -> Vec<u8> {
    format!("PROXY TCP4 {address} 127.0.0.1 1 2\r\n").into_bytes()
}

#[test]
fn a_blocked_network_is_refused_and_its_clients_are_kicked_on_request() {
    let (server, http_push) = start(&["tcp.proxy_from=[\"127.0.0.0/8\"]"]);
    let mut peers = ["192.0.2.7", "192.0.2.8", "192.0.3.1"].map(|address| {
        let mut stream = TcpStream::connect(server.tcp).unwrap();
        stream.write_all(&proxied(address)).unwrap();
        let mut peer = Peer::over(stream, Transport::Tcp);
        peer.authenticate(&format!("/{address}//"));
        peer
    });
    let kicked = CloseNotice { reason: "kicked: out".to_owned(), close: None };
    let (_, answer) =
        http(http_push, "POST", "/comet/kick/address?address=192.0.2.8&reason=out", b"");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["data"]["closed"], 1, "{answer}");
    assert_eq!(peers[1].close_notice(), kicked);
    let block = "block?address=192.0.2.7/24&seconds=3600";
    assert_eq!(request(http_push, "POST", block), json!({ "closed": 0 }));
    peers[0].ask(op::HEARTBEAT, 1, b"");
    assert!(accepts_client_behind(&server, &proxied("192.0.3.2")));
    until("the cores to know", || !accepts_client_behind(&server, &proxied("192.0.2.9")));
    assert!(closed(&server, "blocked") >= 1);
    assert_eq!(request(http_push, "POST", &format!("{block}&kick=true"))["closed"], 1);
    assert_eq!(peers[0].close_notice().reason, "kicked");
    peers[2].ask(op::HEARTBEAT, 2, b"");

    let listed = request(http_push, "GET", "blocks");
    assert_eq!((listed[0]["address"].as_str(), listed[1].as_str()), (Some("192.0.2.0/24"), None));
    request(http_push, "POST", "unblock?address=192.0.2.0/24");
    until("the cores to know", || accepts_client_behind(&server, &proxied("192.0.2.9")));
    for (path, code) in
        [("unblock?address=192.0.2.0/24", -404), ("block?address=host&seconds=1", -400)]
    {
        let (_, answer) = http(http_push, "POST", &format!("/comet/node/{path}"), b"");
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["code"], code, "{answer}");
    }
}

#[test]
fn a_block_expires() {
    let (server, http_push) = start(&[]);
    request(http_push, "POST", "block?address=127.0.0.1&seconds=300");
    until("the cores to know", || !accepts_client(&server));
    // A newer block of the same address replaces it.
    request(http_push, "POST", "block?address=127.0.0.1&seconds=1");
    until("its end", || accepts_client(&server));
    until("the list to be empty", || request(http_push, "GET", "blocks") == json!([]));
}
