//! The record layer of the server against other implementations of TLS: rustls, OpenSSL, Go, Java, Chromium. curl is in `sse.rs`.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use comet_client::Transport;
use rustls::version::TLS13;

use crate::peer::{Peer, message};
use crate::process::{Running, line_with, lines};
use crate::scratch;
use crate::support::{BOTH, PATIENCE, Server, To, queued, until};
use crate::tls::{Certificates, address, live};

/// The time that a program in another language may take to start on a busy machine.
const START_PATIENCE: Duration = PATIENCE.saturating_mul(4);

/// A TLS client as a process, which connects its standard input and output to the connection.
pub(crate) struct Program {
    _running: Running,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    /// Output that is not read yet.
    rest: Vec<u8>,
    pub(crate) log: Receiver<String>,
}

impl Program {
    /// `None`: the program is not installed.
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

    /// A client of OpenSSL that logs its messages. A line that begins with a letter is a command for it.
    pub(crate) fn openssl(
        address: SocketAddr,
        certificates: &Certificates,
        version: &str,
    ) -> Option<Self> {
        let address = address.to_string();
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
            match self.output.recv_timeout(START_PATIENCE) {
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

/// Both sides send, in one record and in many.
#[track_caller]
fn check_talk<S: Read + Write>(server: &Server, peer: &mut Peer<S>) {
    assert_eq!(peer.online(), 1);
    let body: Vec<u8> = (0..100_000_u32).map(|at| (at * 7 + at / 251) as u8).collect();
    for body in [&b"hello"[..], &body] {
        assert_eq!(server.push(To::User(7), 1000, body), queued(1));
        assert!(peer.recv() == message(1000, 0, body), "the body differs");
        peer.send(4, 9, body);
        assert_eq!(peer.recv(), message(4, 9, b""));
    }
}

/// Other programs take some time to start, between the connection and the token.
const SETS: [&str; 2] = ["protocol.body_max=\"1MiB\"", "protocol.handshake_timeout=\"5m\""];

#[test]
fn rustls_updates_keys() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let client = Arc::new(certificates.client(&[&TLS13]));
    for transport in BOTH {
        let mut peer = live(&server, transport, &client, "7");
        for _ in 0..5 {
            // This also requests an update of the server's key.
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
fn a_forged_record_ends_only_its_own_connection() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let client = Arc::new(certificates.client(&[&TLS13]));
    let mut bystander = live(&server, Transport::Tcp, &client, "7");
    let mut peer = live(&server, Transport::Tcp, &client, "8");
    // A record that was not encrypted with the key of the connection.
    let forged = [&[23, 3, 3, 0, 40][..], &[7; 40]].concat();
    peer.stream.sock.write_all(&forged).unwrap();
    let error = peer.stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    server.until("comet_connections", 1);
    assert_eq!(server.metrics().closed("tls_failed"), 1);
    // The other core learns of the end a little later.
    until("the bystander to be the only member", || bystander.online() == 1);
    check_talk(&server, &mut bystander);
}

#[test]
fn openssl_updates_keys_of_both_sides() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let Some(program) =
        Program::openssl(address(&server, Transport::Tcp), &certificates, "-tls1_3")
    else {
        return;
    };
    let mut peer = Peer { stream: program, transport: Transport::Tcp };
    peer.authenticate("7");
    check_talk(&server, &mut peer);
    for _ in 0..3 {
        // `k`: the client updates its own key.
        peer.write(b"k\n");
        line_with(&peer.stream.log, ">>> TLS 1.3, Handshake [length 0005], KeyUpdate");
        check_talk(&server, &mut peer);
        // `K`: the client also requests an update of the server's key. The server answers without waiting for data.
        peer.write(b"K\n");
        line_with(&peer.stream.log, ">>> TLS 1.3, Handshake [length 0005], KeyUpdate");
        line_with(&peer.stream.log, "<<< TLS 1.3, Handshake [length 0005], KeyUpdate");
        check_talk(&server, &mut peer);
    }
    // `Q`: the client closes the connection.
    peer.write(b"Q\n");
    peer.expect_end();
    server.until("comet_connections", 0);
    assert_eq!(server.metrics().closed("peer_closed"), 1);
    server.metrics().assert_balanced();
}

#[test]
fn openssl_can_use_tls_1_2_but_not_renegotiate() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let Some(program) =
        Program::openssl(address(&server, Transport::Tcp), &certificates, "-tls1_2")
    else {
        return;
    };
    let mut peer = Peer { stream: program, transport: Transport::Tcp };
    peer.authenticate("7");
    check_talk(&server, &mut peer);
    peer.write(b"R\n");
    line_with(&peer.stream.log, "RENEGOTIATING");
    line_with(&peer.stream.log, "no_renegotiation");
    server.until("comet_connections", 0);
    assert_eq!(server.metrics().closed("tls_failed"), 1);
}

/// Exchanges messages with `program` in its version of TLS.
#[track_caller]
fn check_program(server: &Server, program: Program) {
    let mut peer = Peer { stream: program, transport: Transport::Tcp };
    peer.authenticate("7");
    for _ in 0..3 {
        check_talk(server, &mut peer);
    }
    // The program closes the connection when its standard input ends.
    let Program { input, output, _running, .. } = peer.stream;
    drop(input);
    server.until("comet_connections", 0);
    assert!(output.recv_timeout(PATIENCE).is_err(), "no more output");
    server.metrics().assert_balanced();
}

/// Runs a compiler. `false`: it is not installed.
#[track_caller]
fn builds(compiler: &mut Command) -> bool {
    match compiler.output() {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            true
        }
        Err(error) => {
            eprintln!("SKIPPED: no {:?} ({error})", compiler.get_program());
            false
        }
    }
}

fn source(name: &str) -> String {
    format!("{}/tests/it/tls_peers/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn go_can_use_both_versions() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let address = address(&server, Transport::Tcp).to_string();
    let [certificate, _] = certificates.files("a.example");
    let folder = Folder::new("go");
    let binary = folder.0.join("peer");
    if !builds(Command::new("go").arg("build").arg("-o").arg(&binary).arg(source("peer.go"))) {
        return;
    }
    for (count, version) in [(1, "1.2"), (2, "1.3")] {
        let mut go = Command::new(&binary);
        let program = Program::start(go.args([&address, &certificate, version])).unwrap();
        check_program(&server, program);
        assert_eq!(server.metrics().closed("peer_closed"), count);
    }
}

#[test]
fn java_can_use_both_versions_and_updates_its_keys() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let port = address(&server, Transport::Tcp).port().to_string();
    let [certificate, _] = certificates.files("a.example");
    // After this number of bytes the client updates its key and requests an update of the server's.
    let folder = Folder::new("java");
    let limits = folder.0.join("java.security");
    fs::write(&limits, "jdk.tls.keyLimits=AES/GCM/NoPadding KeyUpdate 2^15\n").unwrap();
    let limits = format!("-Djava.security.properties={}", limits.display());
    if !builds(Command::new("javac").arg("-d").arg(&folder.0).arg(source("Peer.java"))) {
        return;
    }
    for (count, version) in [(1, "1.2"), (2, "1.3")] {
        let mut java = Command::new("java");
        java.arg("-cp").arg(&folder.0).args([&limits, "-Djavax.net.debug=ssl:handshake"]);
        java.args(["Peer", &port, &certificate, version]);
        let mut program = Program::start(&mut java).unwrap();
        let log = std::mem::replace(&mut program.log, channel().1);
        check_program(&server, program);
        assert_eq!(server.metrics().closed("peer_closed"), count);
        let updates = log.iter().filter(|line| line.contains("Consuming KeyUpdate")).count();
        assert_eq!(updates > 0, version == "1.3", "{updates} updates of the server's key");
    }
}

/// A folder that is removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = Self(scratch::folder().join(name));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A browser that was killed may still write into the folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn chromium_can_use_the_server() {
    let certificates = certificates();
    let server = certificates.server(&SETS);
    let port = address(&server, Transport::WebSocket).port().to_string();
    let folder = Folder::new("chromium");
    let page = folder.0.join("page.html");
    fs::write(&page, include_str!("tls_peers/page.html").replace("PORT", &port)).unwrap();
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
    // Containers often have 64 MB of shared memory, which is too little for several browsers.
    chromium.arg("--disable-dev-shm-usage");
    chromium.args(["--disable-background-networking", "--ignore-certificate-errors"]);
    chromium.args(["--remote-debugging-port=0"]);
    chromium.arg(format!("--user-data-dir={}", folder.0.display()));
    chromium.arg(format!("file://{}", page.display()));
    let Some(_chromium) = Program::start(&mut chromium) else { return };
    let begin = Instant::now();
    while server.push(To::User(7), 1000, b"live://1 ") != queued(1) {
        assert!(begin.elapsed() < START_PATIENCE, "the page does not connect");
    }
    let long = ["live://2 ", &"0123456789".repeat(10_000)].concat();
    for (room, body) in [("live://1", "live://1 "), ("live://2", &long), ("live://3", "live://3 ")]
    {
        assert_eq!(server.push(To::User(7), 1000, body.as_bytes()), queued(1));
        until("the page to enter the room", || server.push(To::Room(room), 5, b"") == queued(1));
    }
}
