//! TLS listeners of the running server, with clients of rustls over both transports.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use comet::{App, StartError};
use comet_client::{Transport, op};
use rcgen::{CertificateParams, CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConnection, Error, HandshakeKind, ProtocolVersion, RootCertStore,
    StreamOwned, SupportedProtocolVersion,
};

use crate::peer::{CloseNotice, Peer, frame, message};
use crate::support::{BOTH, PATIENCE, Permit, Server, To, config, queued};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Certificates in a folder, which is removed with the value.
pub(crate) struct Certificates {
    folder: PathBuf,
    names: Vec<&'static str>,
}

impl Certificates {
    /// Creates a certificate for each name.
    pub(crate) fn new(names: &[&'static str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("comet-tls-{}-{number}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let certificates = Self { folder, names: names.to_vec() };
        for name in names {
            certificates.renew(name);
        }
        certificates
    }

    /// Creates a new certificate for `name`.
    pub(crate) fn renew(&self, name: &str) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(self.file(name, "pem"), cert.pem()).unwrap();
        fs::write(self.file(name, "key"), signing_key.serialize_pem()).unwrap();
    }

    /// Creates a certificate for `name` that is valid until `end`.
    pub(crate) fn renew_until(&self, name: &str, end: SystemTime) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = end.into();
        let key = KeyPair::generate().unwrap();
        fs::write(self.file(name, "pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(self.file(name, "key"), key.serialize_pem()).unwrap();
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", name.replace('*', "any")))
    }

    /// The files of the certificate for `name` and of its key.
    pub(crate) fn files(&self, name: &str) -> [String; 2] {
        ["pem", "key"].map(|kind| self.file(name, kind).to_str().unwrap().to_owned())
    }

    fn list(&self, kind: &str) -> String {
        let files = self.names.iter().map(|name| format!("{:?}", self.file(name, kind)));
        files.collect::<Vec<_>>().join(",")
    }

    /// Settings of a server with these certificates, on free ports.
    pub(crate) fn sets(&self) -> Vec<String> {
        vec![
            format!("tls.certificates=[{}]", self.list("pem")),
            format!("tls.keys=[{}]", self.list("key")),
            r#"tcp.tls_bind=["127.0.0.1:0"]"#.to_owned(),
            r#"websocket.tls_bind=["127.0.0.1:0"]"#.to_owned(),
        ]
    }

    pub(crate) fn server(&self, sets: &[&str]) -> Server {
        let own = self.sets();
        let all: Vec<&str> = own.iter().map(String::as_str).chain(sets.iter().copied()).collect();
        Server::start(&all)
    }

    fn read(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.file(name, "pem")).unwrap()
    }

    /// A client that trusts the current certificates only.
    pub(crate) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for name in &self.names {
            roots.add(self.read(name)).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn address(server: &Server, transport: Transport) -> SocketAddr {
    match transport {
        Transport::Tcp => server.app().tcp_tls_addrs()[0],
        Transport::WebSocket => server.app().websocket_tls_addrs()[0],
    }
}

pub(crate) fn plain(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A complete handshake on `stream` with the server name `name`.
pub(crate) fn handshake(
    mut stream: TcpStream,
    config: &Arc<ClientConfig>,
    name: &'static str,
) -> Result<Stream, Error> {
    let name = name.try_into().unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    while client.is_handshaking() {
        if let Err(error) = client.complete_io(&mut stream) {
            let inner = error.downcast::<Error>();
            return Err(inner.unwrap_or_else(|error| panic!("handshake: {error}")));
        }
    }
    Ok(StreamOwned::new(client, stream))
}

fn connect(
    server: &Server,
    transport: Transport,
    config: &Arc<ClientConfig>,
    name: &'static str,
) -> Result<Peer<Stream>, Error> {
    let stream = handshake(plain(address(server, transport)), config, name)?;
    Ok(Peer { stream, transport })
}

/// An authenticated connection, in protocol 1.
pub(crate) fn live_1(
    server: &Server,
    transport: Transport,
    config: &Arc<ClientConfig>,
    token: &str,
) -> Peer<Stream> {
    let mut peer = open(server, transport, config);
    peer.authenticate_1(token);
    peer
}

/// An authenticated connection, in protocol 2.
pub(crate) fn live(
    server: &Server,
    transport: Transport,
    config: &Arc<ClientConfig>,
    token: &str,
) -> Peer<Stream> {
    let mut peer = open(server, transport, config);
    peer.authenticate(token);
    peer
}

/// A connection that is ready for frames.
fn open(server: &Server, transport: Transport, config: &Arc<ClientConfig>) -> Peer<Stream> {
    let mut peer = connect(server, transport, config, "a.example").unwrap();
    peer.upgrade();
    peer
}

#[test]
fn both_transports_work_in_both_versions() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[]);
    for version in VERSIONS {
        let client = Arc::new(certificates.client(&[version]));
        for transport in BOTH {
            let mut peer = live(&server, transport, &client, "7");
            let spoken = peer.stream.conn.protocol_version();
            assert_eq!(
                spoken == Some(ProtocolVersion::TLSv1_3),
                std::ptr::eq(version, &raw const TLS13)
            );
            assert_eq!(server.push(To::User(7), 1000, b"hello"), queued(1));
            assert_eq!(peer.recv(), message(1000, 0, b"hello"));
            assert_eq!(peer.online(), 1);
            assert_eq!(peer.ask(12, 2, b"live://1"), message(13, 2, b"live://1"));
            assert_eq!(server.push(To::Room("live://1"), 1000, b"room"), queued(1));
            assert_eq!(peer.recv(), message(1000, 0, b"room"));
            peer.stream.conn.send_close_notify();
            peer.expect_end();
        }
    }
    server.until("comet_connections", 0);
    assert_eq!(server.metrics().closed("peer_closed"), 4);
}

#[test]
fn large_frames_pass_in_many_records() {
    let certificates = Certificates::new(&["a.example"]);
    let sets = ["tcp.sndbuf=16384", "tcp.rcvbuf=16384", "protocol.body_max=\"1MiB\""];
    let server = certificates.server(&sets);
    let body: Vec<u8> = (0..1_u32 << 20).map(|at| (at * 7 + at / 251) as u8).collect();
    for version in VERSIONS {
        let client = Arc::new(certificates.client(&[version]));
        for transport in BOTH {
            let mut peer = live(&server, transport, &client, "7");
            // Both directions at once: neither side may wait for the other one to read.
            assert_eq!(server.push(To::User(7), 1000, &body), queued(1));
            peer.send(4, 9, &body);
            let mut got = [peer.recv(), peer.recv()];
            got.sort_by_key(|message| message.operation);
            assert_eq!(got[0], message(4, 9, b""));
            assert!(got[1] == message(1000, 0, &body), "the body differs");
            // Each record has a part of a frame, and each write has a part of the bytes.
            let bytes = peer.wrap(&frame(4, 10, &body[..5000]));
            for piece in bytes.chunks(700) {
                peer.write(piece);
                peer.stream.flush().unwrap();
            }
            assert_eq!(peer.recv(), message(4, 10, b""));
        }
    }
}

#[test]
fn the_server_name_selects_the_certificate() {
    let certificates = Certificates::new(&["a.example", "*.b.example", "c.example"]);
    let server = certificates.server(&[]);
    let client = Arc::new(certificates.client(&[&TLS13, &TLS12]));
    let mut nameless = certificates.client(&[&TLS13, &TLS12]);
    nameless.enable_sni = false;
    let shown = |client: &Arc<ClientConfig>, name| {
        let peer = connect(&server, Transport::WebSocket, client, name)?;
        Ok(peer.stream.conn.peer_certificates().unwrap()[0].clone().into_owned())
    };
    for (name, of) in [
        ("a.example", "a.example"),
        ("x.b.example", "*.b.example"),
        ("c.example", "c.example"),
        ("C.Example", "c.example"),
    ] {
        assert_eq!(shown(&client, name), Ok(certificates.read(of)), "{name}");
    }
    assert_eq!(shown(&Arc::new(nameless), "a.example"), Ok(certificates.read("a.example")));
    // No certificate has this name. The server sends the first one, which the client refuses.
    let refused = shown(&client, "b.example");
    assert!(matches!(refused, Err(Error::InvalidCertificate(_))), "{refused:?}");
    server.until("comet_connections", 0);
    assert_eq!(server.metrics().closed("tls_failed"), 1);
}

#[test]
fn sessions_resume_on_any_core() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[]);
    for version in VERSIONS {
        let mut client = certificates.client(&[version]);
        client.resumption = Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        let mut kinds = Vec::new();
        let mut cores = [false; 2];
        while cores != [true; 2] {
            let peer = live(&server, Transport::WebSocket, &client, "7");
            kinds.push(peer.stream.conn.handshake_kind().unwrap());
            let connections = server.connections();
            cores = [0, 1].map(|core| cores[core] || connections[core] > 0);
            drop(peer);
            server.until("comet_connections", 0);
        }
        assert_ne!(kinds.remove(0), HandshakeKind::Resumed);
        assert!(kinds.iter().all(|kind| *kind == HandshakeKind::Resumed), "{kinds:?}");
    }
}

#[test]
fn websocket_negotiates_only_http_1_1() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[]);
    let agreed = |transport, offered: &[&str]| {
        let mut client = certificates.client(&[&TLS13]);
        client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let peer = connect(&server, transport, &Arc::new(client), "a.example")?;
        let name = peer.stream.conn.alpn_protocol();
        Ok(name.map(|name| String::from_utf8(name.to_vec()).unwrap()))
    };
    let http = Ok(Some("http/1.1".to_owned()));
    assert_eq!(agreed(Transport::WebSocket, &["h2", "http/1.1"]), http);
    assert_eq!(agreed(Transport::WebSocket, &[]), Ok(None));
    let refused = Err(Error::AlertReceived(AlertDescription::NoApplicationProtocol));
    assert_eq!(agreed(Transport::WebSocket, &["h2"]), refused);
    assert_eq!(agreed(Transport::Tcp, &["h2"]), Ok(None));
}

#[test]
fn clients_below_the_minimum_version_are_refused() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[r#"tls.min_version="1.3""#]);
    let old = Arc::new(certificates.client(&[&TLS12]));
    let refused = connect(&server, Transport::Tcp, &old, "a.example").map(drop);
    assert_eq!(refused, Err(Error::AlertReceived(AlertDescription::ProtocolVersion)));
    server.until(r#"comet_closed_total{reason="tls_failed"}"#, 1);
    live(&server, Transport::Tcp, &Arc::new(certificates.client(&[&TLS13])), "7");
}

#[test]
fn many_simultaneous_handshakes_succeed() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[r#"protocol.handshake_timeout="1m""#]);
    let config = Arc::new(certificates.client(&[&TLS13]));
    let transport = Transport::WebSocket;
    let begun = |_| {
        let name = "a.example".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut socket = plain(address(&server, transport));
        client.write_tls(&mut socket).unwrap();
        Peer { stream: StreamOwned::new(client, socket), transport }
    };
    let mut peers: Vec<_> = (0..150).map(begun).collect();
    for peer in &mut peers {
        peer.upgrade();
        peer.authenticate("7");
    }
    assert_eq!(server.push(To::Room("1"), 1000, b"welcome"), queued(150));
    for peer in &mut peers {
        assert_eq!(peer.recv().body, b"welcome");
    }
}

#[test]
fn invalid_tls_data_is_counted() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[]);
    let mut failed = 0;
    for bytes in [
        frame(op::AUTH, 1, b"7"),
        b"GET /sub HTTP/1.1\r\nHost: comet\r\n\r\n".to_vec(),
        vec![0x5a; 5000],
        b"\x16\x03\x01\xff\xff".to_vec(),
    ] {
        for transport in BOTH {
            let mut stream = plain(address(&server, transport));
            stream.write_all(&bytes).unwrap();
            let mut answer = Vec::new();
            // Unread bytes at the server make the kernel reset the connection, which may cut the alert off.
            if stream.read_to_end(&mut answer).is_ok() {
                assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
            }
            failed += 1;
            server.until(r#"comet_closed_total{reason="tls_failed"}"#, failed);
        }
    }
    // An invalid record on a live connection.
    let client = Arc::new(certificates.client(&[&TLS13]));
    let mut peer = live(&server, Transport::Tcp, &client, "7");
    peer.stream.sock.write_all(b"\x17\x03\x03\0\x20garbled garbled garbled garbled.").unwrap();
    let mut rest = Vec::new();
    let error = peer.stream.read_to_end(&mut rest).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::ConnectionReset));
    server.until(r#"comet_closed_total{reason="tls_failed"}"#, failed + 1);
    server.until("comet_connections", 0);
}

#[test]
fn an_incomplete_tls_handshake_times_out() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[r#"protocol.handshake_timeout="300ms""#]);
    for (count, transport) in (1..).zip(BOTH) {
        let mut stream = plain(address(&server, transport));
        stream.write_all(b"\x16\x03\x01").unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "nothing is sent without encryption");
        server.until(r#"comet_closed_total{reason="handshake_timeout"}"#, count);
    }
    server.until("comet_connections", 0);
}

#[test]
fn an_abandoned_tls_handshake_counts_as_peer_closed() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[r#"protocol.handshake_timeout="1m""#]);
    for (count, transport) in (1..).zip(BOTH) {
        let mut stream = plain(address(&server, transport));
        stream.write_all(b"\x16\x03\x01").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        server.until(r#"comet_closed_total{reason="peer_closed"}"#, count);
        server.until("comet_connections", 0);
    }
}

#[test]
fn an_end_without_close_notify_counts_as_peer_closed() {
    let certificates = Certificates::new(&["a.example"]);
    let server = certificates.server(&[]);
    let client = Arc::new(certificates.client(&[&TLS13]));
    for (count, transport) in (1..).zip(BOTH) {
        let peer = live(&server, transport, &client, "7");
        peer.stream.sock.shutdown(Shutdown::Write).unwrap();
        server.until(r#"comet_closed_total{reason="peer_closed"}"#, count);
        server.until("comet_connections", 0);
    }
}

#[test]
fn a_drain_sends_a_close_notice_and_close_notify() {
    let certificates = Certificates::new(&["a.example"]);
    for version in VERSIONS {
        let server = certificates.server(&[]);
        let client = Arc::new(certificates.client(&[version]));
        let mut peers = BOTH.map(|transport| live(&server, transport, &client, "7"));
        server.push(To::User(7), 1000, b"the last one");
        let clients = std::thread::spawn(move || {
            for peer in &mut peers {
                assert_eq!(peer.recv(), message(1000, 0, b"the last one"));
                let transport = peer.transport;
                // Reading to the end succeeds only if a close_notify came.
                let CloseNotice { reason, close } = peer.close_notice();
                assert_eq!(reason, "draining");
                let code = close.map(|(code, _)| code);
                assert_eq!(code, (transport == Transport::WebSocket).then_some(1001));
            }
        });
        server.drain();
        clients.join().unwrap();
    }
}

#[test]
fn new_clients_get_renewed_certificates() {
    let certificates = Certificates::new(&["a.example"]);
    let own = certificates.sets();
    let sets: Vec<&str> = own.iter().map(String::as_str).collect();
    let mut server = Server::start(&sets);
    let old = Arc::new(certificates.client(&[&TLS13]));
    let mut before = live(&server, Transport::Tcp, &old, "7");

    certificates.renew("a.example");
    let new = Arc::new(certificates.client(&[&TLS13]));
    let refused = connect(&server, Transport::Tcp, &new, "a.example").map(drop);
    assert!(matches!(refused, Err(Error::InvalidCertificate(_))), "{refused:?}");
    server.reload(&config(&sets)).unwrap();
    let mut after = live(&server, Transport::Tcp, &new, "8");
    let refused = connect(&server, Transport::Tcp, &old, "a.example").map(drop);
    assert!(matches!(refused, Err(Error::InvalidCertificate(_))), "{refused:?}");

    // An invalid key changes nothing.
    let key = certificates.file("a.example", "key");
    fs::write(&key, "no key").unwrap();
    let error = server.reload(&config(&sets)).unwrap_err();
    assert_eq!(error, format!("tls.keys[0]: {} holds no private key in PEM form", key.display()));
    live(&server, Transport::Tcp, &new, "9");

    server.until("comet_connections", 2);
    assert_eq!(server.push(To::All, 1000, b"all"), queued(2));
    for peer in [&mut before, &mut after] {
        assert_eq!(peer.recv(), message(1000, 0, b"all"));
    }
}

#[test]
fn an_invalid_key_file_stops_the_start() {
    let certificates = Certificates::new(&["a.example"]);
    let key = certificates.file("a.example", "key");
    fs::write(&key, "no key").unwrap();
    let own = certificates.sets();
    let sets: Vec<&str> = own.iter().map(String::as_str).collect();
    let _permit = Permit::wait();
    let error = App::start(&config(&sets)).unwrap_err();
    assert!(matches!(error, StartError::Tls(_)));
    let sentence = format!("tls.keys[0]: {} holds no private key in PEM form", key.display());
    assert_eq!(error.to_string(), sentence);
}
