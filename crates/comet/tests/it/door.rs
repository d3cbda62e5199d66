//! Limits on clients, on the running server.

use std::io::Write;
use std::net::TcpStream;

use comet_client::Transport;

use crate::peer::Peer;
use crate::support::{BOTH, Server};

fn closed(reason: &str) -> String {
    format!("comet_closed_total{{reason={reason:?}}}")
}

/// A TCP client that was turned away for `reason`, by a server with `protocol.goodbye`.
#[track_caller]
fn check_turned_away(peer: &mut Peer, reason: &str) {
    let notice = peer.close_notice().reason;
    assert!(notice.starts_with(&format!("{reason}; retry_after_ms=")), "{notice}");
}

#[test]
fn an_address_has_its_share_over_cores_and_transports() {
    let server = Server::start(&["clients.per_address=4", "protocol.goodbye=true"]);
    let mut live: Vec<_> = (0..2)
        .flat_map(|core| BOTH.map(|transport| (core, transport)))
        .map(|(core, transport)| {
            let mut peer = Peer::over(server.connect_on(core, transport), transport);
            peer.upgrade();
            peer.authenticate("7");
            peer
        })
        .collect();
    for _ in 0..5 {
        let mut peer = Peer::connect(server.address(Transport::Tcp), Transport::Tcp);
        check_turned_away(&mut peer, "address_limit");
    }
    assert_eq!(server.metric(&closed("address_limit")), 5);
    assert_eq!(server.metric("comet_sources"), 2, "the address and its subnet");
    // One goes, one may come.
    drop(live.pop());
    server.until("comet_connections", 3);
    Peer::live(&server, Transport::WebSocket, "8").online();
}

#[test]
fn behind_a_proxy_the_address_in_the_header_counts() {
    let server = Server::start(&[
        r#"tcp.proxy_from=["127.0.0.0/8"]"#,
        "clients.per_subnet=1",
        "protocol.goodbye=true",
    ]);
    let announced = |address: &str| {
        let mut stream = TcpStream::connect(server.address(Transport::Tcp)).unwrap();
        let header = format!("PROXY TCP4 {address} 198.51.100.9 56324 3101\r\n");
        stream.write_all(header.as_bytes()).unwrap();
        Peer::over(stream, Transport::Tcp)
    };
    let mut first = announced("192.0.2.7");
    first.authenticate("7");
    check_turned_away(&mut announced("192.0.2.8"), "subnet_limit");
    announced("192.0.3.8").authenticate("8");
    first.online();
    assert_eq!(server.metric(&closed("subnet_limit")), 1);
}

#[test]
fn clients_beyond_the_rate_of_accepts_wait_and_get_in() {
    let server = Server::start(&["clients.accepts=40"]);
    let mut peers: Vec<_> =
        (0..30).map(|_| Peer::connect(server.address(Transport::Tcp), Transport::Tcp)).collect();
    for peer in &mut peers {
        peer.authenticate("7");
    }
    assert!(server.metric("comet_accept_pauses_total") > 0);
    assert_eq!(server.metric("comet_live"), 30);
}

#[test]
fn silent_connections_make_room_for_clients() {
    let server = Server::start(&["clients.handshakes=4", r#"protocol.handshake_timeout="1h""#]);
    let silent: Vec<_> =
        (0..20).map(|_| TcpStream::connect(server.address(Transport::Tcp)).unwrap()).collect();
    for user in 0..10 {
        Peer::live(&server, Transport::WebSocket, &user.to_string()).online();
    }
    assert!(server.metric(&closed("handshake_overflow")) >= 16);
    assert!(server.metric("comet_handshakes") <= 4);
    drop(silent);
    server.until("comet_handshakes", 0);
}

#[test]
fn a_flood_of_one_client_ends_it_alone() {
    let server = Server::start(&["clients.frames=10", "clients.room_changes=1"]);
    let mut other = Peer::live(&server, Transport::WebSocket, "8");
    let mut flood = Peer::live(&server, Transport::WebSocket, "7");
    let heartbeat = flood.wrap(&crate::peer::frame(2, 1, b""));
    flood.write(&heartbeat.repeat(200));
    let notice = loop {
        let message = flood.recv();
        if message.operation != 3 {
            break String::from_utf8(message.body).unwrap();
        }
    };
    assert!(notice.starts_with("frame_rate; retry_after_ms="), "{notice}");
    assert_eq!(flood.read_close().0, 1008);
    other.online();
    for room in 0..10 {
        other.ask(12, 1, format!("r{room}").as_bytes());
    }
    other.send(12, 1, b"one more");
    let notice = other.close_notice();
    assert!(notice.reason.starts_with("room_rate; "), "{notice:?}");
    assert_eq!(server.metric(&closed("frame_rate")), 1);
    assert_eq!(server.metric(&closed("room_rate")), 1);
}
