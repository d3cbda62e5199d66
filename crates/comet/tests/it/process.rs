//! The program as a process: signals, log and exit codes. Also the helpers by which other tests start it.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use comet::blocking_client::PushClient;
use comet_client::{Pusher, Transport};
use rustix::process::{Pid, Signal, kill_process};

use crate::halt;
use crate::peer::{CloseNotice, Peer, UPGRADE, frame_with};
use crate::scratch;
use crate::support::{
    FREE_PORTS, Metrics, PATIENCE, PATIENT, Permit, SMALL_RING, To, dropped, get, push, queued,
    two_cores, until,
};
use crate::unix_sockets::Folder;

pub(crate) fn comet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_comet"));
    command.args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    // Settings from the environment of the tests must not reach the program.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("COMET_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    let process = comet(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (pid, (sender, output)) = (Pid::from_child(&process), channel());
    thread::spawn(move || sender.send(process.wait_with_output()));
    let output = output.recv_timeout(2 * PATIENCE).unwrap_or_else(|_| {
        kill_process(pid, Signal::KILL).unwrap();
        panic!("{arguments:?} does not end");
    });
    let Output { status, stdout, stderr } = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("the process was not ended by a signal"), text(stdout), text(stderr))
}

/// `--set` arguments for free ports, a small ring, and `sets`.
pub(crate) fn with_sets<'a>(sets: &[&'a str]) -> Vec<&'a str> {
    FREE_PORTS
        .iter()
        .chain([&SMALL_RING, &PATIENT])
        .chain(sets)
        .flat_map(|set| ["--set", set])
        .collect()
}

/// The lines of a program's output, as they arrive.
pub(crate) fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            // The receiver may be gone, but the pipe has to be emptied.
            let _ = sender.send(line);
        }
    });
    receiver
}

#[track_caller]
pub(crate) fn line_with(lines: &Receiver<String>, text: &str) -> String {
    loop {
        let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{text}: {error}"));
        if line.contains(text) {
            return line;
        }
    }
}

/// A running program that is killed with the value.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(mut command: Command) -> (Self, Receiver<String>) {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines(child.stderr.take().unwrap());
        (Self(child), lines)
    }

    /// The same with another standard error.
    pub(crate) fn start_into(mut command: Command, stderr: impl Into<Stdio>) -> Self {
        Self(command.stderr(stderr).stdout(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Stops the process, or continues it.
    pub(crate) fn pause(&self, is_paused: bool) {
        halt::pause(&self.0, is_paused);
    }

    /// Waits for the end. Returns the exit status, and the lines that came to `log` until then.
    pub(crate) fn end_status(mut self, log: &Receiver<String>) -> (ExitStatus, Vec<String>) {
        let mut logged = Vec::new();
        // The pipe is closed by the end of the process.
        while let Ok(line) = log.recv_timeout(PATIENCE) {
            logged.push(line);
        }
        until("the process to end", || self.0.try_wait().unwrap().is_some());
        (self.0.wait().unwrap(), logged)
    }

    /// Waits for the end, and returns the exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        until("the process to end", || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server as a process.
pub(crate) struct Server {
    process: Running,
    pub(crate) log: Receiver<String>,
    pub(crate) tcp: SocketAddr,
    pub(crate) websocket: SocketAddr,
    /// The TLS addresses of both transports, if there is a certificate.
    pub(crate) tls: Option<[SocketAddr; 2]>,
    pub(crate) grpc: SocketAddr,
    pub(crate) stat: SocketAddr,
    _permit: Option<Permit>,
}

impl Server {
    pub(crate) fn start(sets: &[&str]) -> Self {
        Self::start_with(&[], sets)
    }

    pub(crate) fn start_with(arguments: &[&str], sets: &[&str]) -> Self {
        Self::start_in(&[], arguments, sets)
    }

    /// The same with environment variables.
    pub(crate) fn start_in(
        environment: &[(&str, &str)],
        arguments: &[&str],
        sets: &[&str],
    ) -> Self {
        let permit = Permit::wait();
        let cores = two_cores();
        let arguments = [&["--cores", &cores], arguments, &with_sets(sets)].concat();
        let mut command = comet(&arguments);
        command.envs(environment.iter().copied());
        Self::launch(command, permit)
    }

    /// The same with a limit of open files.
    pub(crate) fn start_with_files(open_files: u32, sets: &[&str]) -> Self {
        let permit = Permit::wait();
        let mut command = Command::new("sh");
        let limited = format!("ulimit -n {open_files}; exec \"$0\" \"$@\"");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_comet"), "--cores", &two_cores()]);
        command.args(with_sets(sets)).env_remove("RUST_LOG").stdin(Stdio::null());
        Self::launch(command, permit)
    }

    /// Starts `command`, which must contain [`with_sets`].
    pub(crate) fn launch(command: Command, permit: impl Into<Option<Permit>>) -> Self {
        let (process, log) = Running::start(command);
        let [tcp, websocket] = addresses(&line_with(&log, "tcp ["));
        let mut line = line_with(&log, " [");
        let tls = line.contains("with TLS").then(|| addresses(&line));
        if tls.is_some() {
            line = line_with(&log, "stat [");
        }
        let [grpc, stat] = addresses(&line);
        Self { process, log, tcp, websocket, tls, grpc, stat, _permit: permit.into() }
    }

    pub(crate) fn live(&self, transport: Transport, token: &str) -> Peer {
        let address = match transport {
            Transport::Tcp => self.tcp,
            Transport::WebSocket => self.websocket,
        };
        let mut peer = Peer::connect(address, transport);
        peer.upgrade();
        peer.authenticate(token);
        peer
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Stops the process, or continues it.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.process.pause(is_paused);
    }

    pub(crate) fn pid(&self) -> String {
        self.process.0.id().to_string()
    }

    /// Waits for the end. Returns the exit code and the log.
    pub(crate) fn end(self) -> (Option<i32>, Vec<String>) {
        let (status, logged) = self.end_status();
        (status.code(), logged)
    }

    /// The same with the exit status, which has the signal that ended the process, if any.
    pub(crate) fn end_status(self) -> (ExitStatus, Vec<String>) {
        self.process.end_status(&self.log)
    }
}

/// The two addresses in a line of the log.
pub(crate) fn addresses(line: &str) -> [SocketAddr; 2] {
    let found = line.split(['[', ']']).filter_map(|part| part.parse().ok());
    found.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("{line}"))
}

/// Creates a file with `text` in the folder of this run. Returns its path.
pub(crate) fn temporary(name: &str, text: &str) -> String {
    let path = scratch::folder().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn sigterm_and_sigint_send_close_notices_and_end_the_server() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(&[]);
        assert_eq!(get(server.stat, "/healthz"), (200, "ok\n".to_owned()));
        let mut tcp = server.live(Transport::Tcp, "1");
        let mut websocket = server.live(Transport::WebSocket, "1");
        let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
        // Pushes that were queued before the signal arrive before the notice.
        for _ in 0..50 {
            assert_eq!(push(&caller, To::Room("1"), 5, b"last words"), queued(2));
        }
        drop(caller);
        server.signal(signal);
        for peer in [&mut tcp, &mut websocket] {
            for _ in 0..50 {
                assert_eq!(peer.recv().body, b"last words");
            }
        }
        let reason = || "draining".to_owned();
        assert_eq!(tcp.close_notice(), CloseNotice { reason: reason(), close: None });
        let close = Some((1001, reason()));
        assert_eq!(websocket.close_notice(), CloseNotice { reason: reason(), close });
        drop((tcp, websocket));
        let (code, logged) = server.end();
        assert_eq!(code, Some(0), "{logged:?}");
        assert!(logged.iter().any(|line| line.ends_with("2 of 2 cores drained in time")));
    }
}

/// The spread keeps clients from reconnecting to the next server all at once.
#[test]
fn close_notices_of_a_drain_are_spread_and_have_a_retry_time() {
    let server = Server::start(&["server.drain_over=\"300ms\"", "server.retry_after=\"2s\""]);
    let mut peers = Vec::new();
    for transport in [Transport::Tcp, Transport::WebSocket].repeat(4) {
        peers.push(server.live(transport, "1"));
    }
    server.signal(Signal::TERM);
    for peer in &mut peers {
        let CloseNotice { reason, close } = peer.close_notice();
        let wait = reason.strip_prefix("draining; retry_after_ms=").and_then(|ms| ms.parse().ok());
        assert!(wait.is_some_and(|wait: u32| wait <= 2_000), "{reason}");
        if let Some(close) = close {
            assert_eq!(close, (1001, reason));
        }
    }
    drop(peers);
    let (code, logged) = server.end();
    assert_eq!(code, Some(0), "{logged:?}");
}

#[test]
fn a_client_that_does_not_read_delays_the_end_by_the_drain_timeout() {
    let server = Server::start(&[
        "server.drain_timeout=\"10s\"",
        "protocol.linger=\"1h\"",
        "protocol.write_timeout=\"1h\"",
        "protocol.svr_proto=4",
        "tcp.sndbuf=4096",
    ]);
    let stuck = server.live(Transport::Tcp, "1");
    let caller = PushClient::connect(&server.grpc.to_string()).unwrap();
    let full = dropped(queued(0), "outbox_full", 1);
    while push(&caller, To::User(1), 5, &[0; 1 << 18]) != full {}
    Metrics::read(server.stat).assert_balanced();
    drop(caller);

    let begin = Instant::now();
    server.signal(Signal::TERM);
    // During the drain the health check fails, and the server accepts no connections.
    let draining = (503, "draining\n".to_owned());
    until("the health check to fail", || get(server.stat, "/healthz") == draining);
    until("connections to be refused", || TcpStream::connect(server.tcp).is_err());
    let (code, logged) = server.end();
    let took = begin.elapsed();
    assert_eq!(code, Some(0), "{logged:?}");
    assert!(took >= Duration::from_secs(10) && took < 2 * PATIENCE, "{took:?}");
    assert!(logged.iter().any(|line| line.ends_with("1 of 2 cores drained in time")));
    drop(stuck);
}

#[test]
fn invalid_input_is_logged_with_its_reason() {
    let server = Server::start(&[]);
    let mut bad = server.live(Transport::Tcp, "42");
    let from = bad.stream.local_addr().unwrap();
    bad.write(&frame_with(15, 16, 5, 1, b""));
    bad.close_notice();
    let line = line_with(&server.log, "reason=bad_frame");
    for text in ["key=\"42_1\" ", &format!("peer={from}"), "packLen is 15, less than the 16 bytes"]
    {
        assert!(line.contains(text), "{text}: {line}");
    }
    let mut other = Peer::connect(server.websocket, Transport::WebSocket);
    other.write(UPGRADE.replace("GET", "PUT").as_bytes());
    let line = line_with(&server.log, "reason=bad_upgrade");
    assert!(line.contains("Only GET can open a WebSocket."), "{line}");
}

#[test]
fn a_push_caller_with_a_wrong_token_is_logged() {
    let folder = Folder::new();
    let frames = format!("push.frames=[\"{}\"]", folder.address("frames"));
    let server = Server::start(&[&frames, "push.tokens=[\"a-token-that-nobody-guesses\"]"]);
    let mut pusher = Pusher::unix(folder.file("frames"), PATIENCE).unwrap();
    pusher.authenticate("another-token").unwrap_err();
    line_with(&server.log, "push.frames: callers without a token that opens: 1 so far");
}

/// A key with terminal control codes, a change of text direction, forged fields and a line break.
#[test]
fn client_text_is_escaped_in_the_log() {
    let server = Server::start(&[]);
    let key = "\\u001b]0;x\\u009b2J\\u202ek\\\" peer=192.0.2.1:1 reason=draining\\r\\n[forged";
    let token = format!(r#"{{"mid":7,"key":"{key}","accepts":[1]}}"#);
    let mut bad = server.live(Transport::Tcp, &token);
    let from = bad.stream.local_addr().unwrap();
    bad.write(&[0; 4]);
    bad.close_notice();
    let line = line_with(&server.log, "reason=bad_frame");
    let key = r#"key="\u{1b}]0;x\u{9b}2J\u{202e}k\" peer=192.0.2.1:1 reason=draining\r\n[forged""#;
    let whole = format!("{key} peer={from} reason=bad_frame detail=\"packLen is 0, ");
    assert!(line.contains(&whole), "{line}");
    assert!(line.ends_with('"'), "{line}");
}

/// Load balancers probe a port without data, and clients leave with or without a reset.
#[test]
fn any_end_by_the_client_is_logged_as_peer_closed() {
    let server = Server::start(&["log.level=\"debug\""]);
    for (transport, address) in
        [(Transport::Tcp, server.tcp), (Transport::WebSocket, server.websocket)]
    {
        for (is_reset, says) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut peer = Peer::connect(address, transport);
            let from = peer.stream.local_addr().unwrap();
            if says {
                peer.upgrade();
                peer.authenticate("1");
            }
            if is_reset {
                rustix::net::sockopt::set_socket_linger(&peer.stream, Some(Duration::ZERO))
                    .unwrap();
            }
            drop(peer);
            let line = line_with(&server.log, &format!("peer={from} reason="));
            assert!(line.contains(" DEBUG ") && line.contains(" reason=peer_closed"), "{line}");
        }
    }
    let metrics = Metrics::read(server.stat);
    assert_eq!((metrics.closed("peer_closed"), metrics.closed("socket_error")), (8, 0));
}
