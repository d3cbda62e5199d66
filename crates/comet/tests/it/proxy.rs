//! The addresses of connections: PROXY headers, several listeners, IPv6, and steering by CPU.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use comet_client::Transport;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustls::version::{TLS12, TLS13};

use crate::peer::{Peer, UPGRADE, frame};
use crate::support::{BOTH, FREE_PORTS, Permit, SMALL_RING, Server, To, queued, two_cores};
use crate::tls::{Certificates, address, handshake, plain};

const FROM_LOOPBACK: &str = r#"tcp.proxy_from=["192.0.2.0/24","127.0.0.0/8"]"#;
const BAD_HEADERS: &str = r#"comet_closed_total{reason="bad_proxy_header"}"#;

/// Headers of all kinds. Those with a source address come first.
fn headers() -> [Vec<u8>; 5] {
    let binary = |command: u8, family: u8, rest: &[u8]| {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
    };
    let v4 = [192, 0, 2, 7, 198, 51, 100, 9, 0xdc, 0x04, 0x0c, 0x1d];
    let v6 = [&[0x20, 1, 0xd, 0xb8], &[0; 11][..], &[7], &[1; 16], &[0xdc, 4, 0, 1]].concat();
    [
        b"PROXY TCP4 192.0.2.7 198.51.100.9 56324 3101\r\n".to_vec(),
        binary(0x21, 0x11, &[&v4[..], b"\x04\0\x05spare"].concat()),
        binary(0x21, 0x21, &v6),
        b"PROXY UNKNOWN\r\n".to_vec(),
        binary(0x20, 0x00, b""),
    ]
}

/// Connects, and sends `header` in pieces of `piece` bytes.
fn connect_with_header(address: SocketAddr, header: &[u8], piece: usize) -> TcpStream {
    let mut stream = plain(address);
    for piece in header.chunks(piece) {
        stream.write_all(piece).unwrap();
    }
    stream
}

#[test]
fn a_proxy_header_may_arrive_in_pieces() {
    let server = Server::start(&[FROM_LOOPBACK]);
    for transport in BOTH {
        for header in headers() {
            for piece in [1, 10, header.len()] {
                let stream = connect_with_header(server.address(transport), &header, piece);
                let mut peer = Peer::over(stream, transport);
                peer.upgrade();
                peer.authenticate("7");
            }
            // The first request of the client in the same segment.
            let first = match transport {
                Transport::Tcp => frame(7, 1, b"7"),
                Transport::WebSocket => UPGRADE.as_bytes().to_vec(),
            };
            let header = [header, first].concat();
            let stream = connect_with_header(server.address(transport), &header, header.len());
            let mut peer = Peer::over(stream, transport);
            match transport {
                Transport::Tcp => drop(peer.recv()),
                Transport::WebSocket => peer.expect_upgraded(),
            }
        }
    }
    assert_eq!(server.metric(BAD_HEADERS), 0);
}

#[test]
fn a_proxy_header_comes_before_tls() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[FROM_LOOPBACK]);
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(certificates.client(&[version]));
        for transport in BOTH {
            for header in headers() {
                let stream = connect_with_header(address(&server, transport), &header, 11);
                let stream = handshake(stream, &client, "a.example").unwrap();
                let mut peer = Peer { stream, transport };
                peer.upgrade();
                peer.authenticate("7");
                assert_eq!(server.push(To::User(7), 1000, b"hello"), queued(1));
                assert_eq!(peer.recv().body, b"hello");
                drop(peer);
                server.until("comet_connections", 0);
            }
        }
    }
}

#[test]
fn invalid_proxy_headers_are_refused() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[FROM_LOOPBACK]);
    let addresses = BOTH.map(|transport| [server.address(transport), address(&server, transport)]);
    let mut refused = 0;
    for address in addresses.concat() {
        for bytes in [
            frame(7, 1, b"7"),
            UPGRADE.as_bytes().to_vec(),
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00".to_vec(),
            b"PROXY TCP4 nowhere 198.51.100.9 1 2\r\n".to_vec(),
            [b"PROXY TCP4 ", &[b'1'; 8000][..]].concat(),
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
        ] {
            let mut stream = plain(address);
            stream.write_all(&bytes).unwrap();
            let mut answer = Vec::new();
            // Unread bytes at the server make the kernel reset the connection.
            let _ = stream.read_to_end(&mut answer);
            assert_eq!(answer, b"", "the connection is closed without a reply");
            refused += 1;
            server.until(BAD_HEADERS, refused);
        }
    }
    server.until("comet_connections", 0);
}

#[test]
fn an_incomplete_proxy_header_times_out() {
    let sets = [FROM_LOOPBACK, r#"protocol.handshake_timeout="300ms""#];
    let server = Server::start(&sets);
    let mut stream = plain(server.address(Transport::WebSocket));
    stream.write_all(b"PROXY TCP4 ").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    server.until(r#"comet_closed_total{reason="handshake_timeout"}"#, 1);
}

#[test]
fn proxy_headers_are_read_from_listed_addresses_only() {
    let server = Server::start(&[r#"tcp.proxy_from=["192.0.2.0/24","::1/128"]"#]);
    Peer::live(&server, Transport::WebSocket, "7");
    let mut peer = Peer::connect(server.address(Transport::Tcp), Transport::Tcp);
    peer.write(&headers()[0]);
    // The header is read as a frame.
    assert_eq!(peer.close_frame(), None);
    assert_eq!(server.metrics().closed("bad_frame"), 1);
}

/// A server process that is killed with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_log_names_the_peer_of_the_header() {
    let _permit = Permit::wait();
    let mut command = Command::new(env!("CARGO_BIN_EXE_comet"));
    command.args(["--cores", &two_cores()]).env_remove("RUST_LOG").stderr(Stdio::piped());
    for set in FREE_PORTS.iter().chain(&[SMALL_RING, FROM_LOOPBACK]) {
        command.args(["--set", set]);
    }
    let mut server = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(server.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut line_with =
        |text: &str| lines.find(|line| line.contains(text)).expect("a line with the text");
    let listening = line_with("tcp [");
    let tcp: SocketAddr =
        listening.split(['[', ']']).find_map(|part| part.parse().ok()).expect("an address");
    let [v1, v2, v6, unknown, local] = headers();
    for (header, source) in
        [(v1, Some("192.0.2.7:56324")), (v2, Some("192.0.2.7:56324")), (unknown, None)]
            .into_iter()
            .chain([(v6, Some("[2001:db8::7]:56324")), (local, None)])
    {
        let mut stream = connect_with_header(tcp, &header, header.len());
        let own = stream.local_addr().unwrap().to_string();
        stream.write_all(&[0; 16]).unwrap();
        let line = line_with("reason=bad_frame");
        let peer = format!(" peer={} ", source.unwrap_or(&own));
        assert!(line.contains(&peer), "{peer} in {line}");
    }
}

#[test]
fn ipv4_and_ipv6_addresses_are_served_together() {
    let server = Server::start(&[
        r#"tcp.bind=["127.0.0.1:0","[::1]:0","127.0.0.1:0"]"#,
        r#"websocket.bind=["[::1]:0","127.0.0.1:0"]"#,
    ]);
    let app = server.app();
    assert_eq!((app.tcp_addrs().len(), app.websocket_addrs().len()), (3, 2));
    let tcp = app.tcp_addrs().iter().map(|address| (*address, Transport::Tcp));
    let websocket = app.websocket_addrs().iter().map(|address| (*address, Transport::WebSocket));
    let mut peers: Vec<_> = tcp
        .chain(websocket)
        .map(|(address, transport)| {
            let mut peer = Peer::connect(address, transport);
            peer.upgrade();
            peer.authenticate("7");
            peer
        })
        .collect();
    assert_eq!(peers.iter().filter(|peer| peer.stream.peer_addr().unwrap().is_ipv6()).count(), 2);
    assert_eq!(server.push(To::All, 1000, b"all"), queued(5));
    for peer in &mut peers {
        assert_eq!(peer.recv().body, b"all");
    }
}

/// In /proc/net/tcp, a socket whose only timer is that of the next keepalive probe has the value 02 and the time until then in
/// hundredths of a second (proc(5)).
#[test]
fn silent_clients_are_probed_as_configured() {
    let timer = |sets: &[&str]| {
        let server = Server::start(sets);
        let peer = Peer::open(&server, Transport::Tcp);
        let [local, remote] = [peer.stream.peer_addr(), peer.stream.local_addr()]
            .map(|address| format!("0100007F:{:04X}", address.unwrap().port()));
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = sockets.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let mut ours = fields.filter(|fields| fields[1..3] == [local.as_str(), remote.as_str()]);
        let (kind, when) =
            ours.next().expect("the socket of the server")[5].split_once(':').unwrap();
        (kind == "02").then(|| u64::from_str_radix(when, 16).unwrap() / 100)
    };
    assert_eq!(timer(&[]), None);
    let probed = timer(&["tcp.keepalive=true", "tcp.keepalive_idle=\"3h\""]).unwrap();
    assert!((7_201..=10_800).contains(&probed), "{probed}");
}

/// The kernel handles loopback packets on the CPU that sends them.
#[test]
fn steered_connections_go_to_the_core_of_their_cpu() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[r#"tcp.steering="cpu""#]);
    let cpus = comet::machine().unwrap().cpus;
    let addresses = BOTH.map(|transport| [server.address(transport), address(&server, transport)]);
    let mut streams = Vec::new();
    let mut expected = [0, 0];
    for address in addresses.concat() {
        for core in [0, 1, 1] {
            let cpu = cpus[core];
            let connect = move || {
                let mut only = CpuSet::new();
                only.set(cpu);
                sched_setaffinity(None, &only).unwrap();
                TcpStream::connect(address).unwrap()
            };
            streams.push(thread::spawn(connect).join().unwrap());
            expected[core] += 1;
        }
    }
    server.until("comet_connections", 12);
    assert_eq!(server.connections(), expected);
    drop(streams);
    for transport in BOTH {
        let mut peer = Peer::live(&server, transport, "7");
        assert_eq!(server.push(To::User(7), 1000, b"hello"), queued(1));
        assert_eq!(peer.recv().body, b"hello");
    }
}
