//! The record layer of the server against other implementations of TLS: rustls, OpenSSL, Go, Java. curl is in `sse.rs`.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use comet_client::Transport;
use rustls::version::TLS13;

use crate::peer::{Peer, message};
use crate::process::{Running, line_with, lines};
use crate::support::{BOTH, PATIENCE, Server, To, queued};
use crate::tls::{Certificates, address, live};

/// A program that speaks TLS and passes on what is inside by its standard input and output.
struct Program {
    _running: Running,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    /// Bytes of the output that nobody has read.
    rest: Vec<u8>,
    log: Receiver<String>,
}

impl Program {
    /// `None`: there is no such program here.
    fn start(command: &mut Command) -> Option<Self> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("SKIPPED: no {:?} ({error})", command.get_program());
                return None;
            }
        };
        let (sender, output) = channel();
        let mut stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(len @ 1..) = stdout.read(&mut bytes) {
                let _ = sender.send(bytes[..len].to_vec());
            }
        });
        let log = lines(child.stderr.take().unwrap());
        let input = child.stdin.take().unwrap();
        Some(Self { _running: Running(child), input, output, rest: Vec::new(), log })
    }

    /// A client of OpenSSL that logs its messages. A line that begins with a letter is a command to it.
    fn openssl(server: &Server, certificates: &Certificates, version: &str) -> Option<Self> {
        let address = address(server, Transport::Tcp).to_string();
        let [certificate, _] = certificates.files("a.example");
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-brief", "-connect", &address, "-CAfile", &certificate]);
        openssl.args(["-servername", "a.example", "-verify_return_error", version]);
        openssl.args(["-msg", "-msgfile", "/dev/stderr"]);
        Self::start(&mut openssl)
    }
}

impl Read for Program {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.rest = bytes,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok(0),
                Err(error) => {
                    let log: Vec<_> = self.log.try_iter().collect();
                    return Err(io::Error::new(ErrorKind::TimedOut, format!("{error}: {log:#?}")));
                }
            }
        }
        let len = buf.len().min(self.rest.len());
        buf[..len].copy_from_slice(&self.rest[..len]);
        self.rest.drain(..len);
        Ok(len)
    }
}

impl Write for Program {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.input.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

fn certificates() -> Certificates {
    Certificates::new(&["a.example"])
}

/// Both sides say something, in one record and in many.
#[track_caller]
fn check_talk<S: Read + Write>(server: &Server, peer: &mut Peer<S>) {
    assert_eq!(peer.online(), 1);
    let body: Vec<u8> = (0..100_000_u32).map(|at| (at * 7 + at / 251) as u8).collect();
    for body in [&b"hello"[..], &body] {
        assert_eq!(server.push(To::User(7), 1000, body), queued(1));
        assert!(peer.recv() == message(1000, 0, body), "every byte in its place");
        peer.send(4, 9, body);
        assert_eq!(peer.recv(), message(4, 9, b""));
    }
}

const SETS: [&str; 1] = ["protocol.body_max=\"1MiB\""];

#[test]
fn rustls_updates_keys() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let client = Arc::new(certificates.client(&[&TLS13]));
    for transport in BOTH {
        let mut peer = live(&server, transport, &client, "7");
        for _ in 0..5 {
            // It asks for an update of the server's key, too.
            peer.stream.conn.refresh_traffic_keys().unwrap();
            check_talk(&server, &mut peer);
        }
        peer.stream.conn.send_close_notify();
        peer.expect_end();
        server.until("comet_connections", 0);
    }
    assert_eq!(server.metrics().closed("peer_closed"), 2);
    server.metrics().assert_balanced();
}

#[test]
fn a_changed_record_ends_the_connection_alone() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let client = Arc::new(certificates.client(&[&TLS13]));
    let mut bystander = live(&server, Transport::Tcp, &client, "7");
    let mut peer = live(&server, Transport::Tcp, &client, "8");
    // A record that no key has sealed.
    let forged = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
    peer.stream.sock.write_all(&forged).unwrap();
    let error = peer.stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    server.until("comet_connections", 1);
    assert_eq!(server.metrics().closed("tls_failed"), 1);
    check_talk(&server, &mut bystander);
}

#[test]
fn openssl_updates_keys_of_both_sides() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let Some(program) = Program::openssl(&server, &certificates, "-tls1_3") else { return };
    let mut peer = Peer { stream: program, transport: Transport::Tcp };
    peer.authenticate("7");
    check_talk(&server, &mut peer);
    for _ in 0..3 {
        // `k`: it updates its own key.
        peer.write(b"k\n");
        line_with(&peer.stream.log, ">>> TLS 1.3, Handshake [length 0005], KeyUpdate");
        check_talk(&server, &mut peer);
        // `K`: it asks the server for an update as well, which answers without waiting for data.
        peer.write(b"K\n");
        line_with(&peer.stream.log, ">>> TLS 1.3, Handshake [length 0005], KeyUpdate");
        line_with(&peer.stream.log, "<<< TLS 1.3, Handshake [length 0005], KeyUpdate");
        check_talk(&server, &mut peer);
    }
    // `Q`: it closes.
    peer.write(b"Q\n");
    peer.expect_end();
    server.until("comet_connections", 0);
    assert_eq!(server.metrics().closed("peer_closed"), 1);
    server.metrics().assert_balanced();
}

#[test]
fn openssl_talks_in_tls_1_2_and_may_not_negotiate_again() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let Some(program) = Program::openssl(&server, &certificates, "-tls1_2") else { return };
    let mut peer = Peer { stream: program, transport: Transport::Tcp };
    peer.authenticate("7");
    check_talk(&server, &mut peer);
    peer.write(b"R\n");
    line_with(&peer.stream.log, "RENEGOTIATING");
    line_with(&peer.stream.log, "no_renegotiation");
    server.until("comet_connections", 0);
    assert_eq!(server.metrics().closed("tls_failed"), 1);
}

/// Talks with `program` in the version that it was started with.
#[track_caller]
fn check_program(server: &Server, program: Program) {
    let mut peer = Peer { stream: program, transport: Transport::Tcp };
    peer.authenticate("7");
    for _ in 0..3 {
        check_talk(server, &mut peer);
    }
    // Its standard input ends, so it closes.
    let Program { input, output, _running, .. } = peer.stream;
    drop(input);
    server.until("comet_connections", 0);
    assert!(output.recv_timeout(PATIENCE).is_err(), "nothing more");
    server.metrics().assert_balanced();
}

fn source(name: &str) -> String {
    format!("{}/tests/it/tls_peers/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn go_talks_in_both_versions() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let address = address(&server, Transport::Tcp).to_string();
    let [certificate, _] = certificates.files("a.example");
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls_peer_go");
    let mut build = Command::new("go");
    build.arg("build").arg("-o").arg(&binary).arg(source("peer.go"));
    match build.output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => return eprintln!("SKIPPED: no go ({error})"),
    }
    for (count, version) in [(1, "1.2"), (2, "1.3")] {
        let mut go = Command::new(&binary);
        let program = Program::start(go.args([&address, &certificate, version])).unwrap();
        check_program(&server, program);
        assert_eq!(server.metrics().closed("peer_closed"), count);
    }
}

#[test]
fn java_talks_in_both_versions_and_updates_its_keys() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let port = address(&server, Transport::Tcp).port().to_string();
    let [certificate, _] = certificates.files("a.example");
    // After so many bytes it updates its key and asks for an update of the server's.
    let limits = Path::new(env!("CARGO_TARGET_TMPDIR")).join("java.security");
    fs::write(&limits, "jdk.tls.keyLimits=AES/GCM/NoPadding KeyUpdate 2^15\n").unwrap();
    let limits = format!("-Djava.security.properties={}", limits.display());
    for (count, version) in [(1, "1.2"), (2, "1.3")] {
        let mut java = Command::new("java");
        java.args([&limits, "-Djavax.net.debug=ssl:handshake", &source("Peer.java")]);
        java.args([&port, &certificate, version]);
        let Some(mut program) = Program::start(&mut java) else { return };
        let log = std::mem::replace(&mut program.log, channel().1);
        check_program(&server, program);
        assert_eq!(server.metrics().closed("peer_closed"), count);
        let updates = log.iter().filter(|line| line.contains("Consuming KeyUpdate")).count();
        assert_eq!(updates > 0, version == "1.3", "{updates} updates of the server's key");
    }
}
