//! The running programs and a log that is not taken: a pipe that nobody reads, one that is closed, a full disk.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::Command;

use comet_client::{Transport, op};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::Signal;

use crate::logic_process::own_address;
use crate::peer::Peer;
use crate::process::{Running, addresses, comet, temporary, with_sets};
use crate::support::{Metrics, Permit, get, http, two_cores, until};

/// A change of that many users is a line of 840 KB; of such lines no fifth one may wait.
const USERS: i64 = 20_000;

/// A server that has logged its start into a pipe of 4 KiB.
struct Server {
    process: Running,
    log: BufReader<File>,
    config: String,
    tcp: SocketAddr,
    stat: SocketAddr,
    debug: SocketAddr,
    _permit: Permit,
}

impl Server {
    fn start(name: &str) -> Self {
        let permit = Permit::wait();
        let config = temporary(name, "");
        let cores = two_cores();
        let arguments = ["--config", &config, "--cores", &cores];
        let arguments = [&arguments[..], &with_sets(&[])].concat();
        let (process, mut log) = piped(&arguments);
        let [tcp, _] = addresses(&line_with(&mut log, "tcp ["));
        let [_, stat] = addresses(&line_with(&mut log, "stat ["));
        let debug = line_with(&mut log, "debug [");
        let debug = debug.split(['[', ']']).find_map(|part| part.parse().ok()).unwrap();
        Self { process, log, config, tcp, stat, debug, _permit: permit }
    }

    fn metric(&self, sample: &str) -> u64 {
        Metrics::read(self.stat).value(sample)
    }

    /// Logs much more than the pipe takes, on every core.
    fn log_much(&self) {
        while self.metric("comet_closed_total{reason=\"bad_frame\"}") < 100 {
            let mut peer = Peer::connect(self.tcp, Transport::Tcp);
            peer.write(&[0; 4]);
            // Until it is closed.
            let _ = peer.stream.read_to_end(&mut Vec::new());
        }
    }

    /// Logs more than may wait, on the main thread.
    fn log_too_much(&self) {
        for first in (i64::MIN..).take(7) {
            let users: Vec<_> = (first..first + USERS).map(|user| user.to_string()).collect();
            let list = format!("file = \"/dev/null\"\nusers = [{}]", users.join(","));
            std::fs::write(&self.config, format!("[white_list]\n{list}\n")).unwrap();
            self.process.signal(Signal::HUP);
            let begin = format!("{{\"users\":[{first},");
            until("the list to change", || get(self.debug, "/white_list").1.starts_with(&begin));
        }
        until("lines to be missing", || self.metric("comet_log_missed_total") > 0);
    }

    fn live(&self) -> Peer {
        let mut peer = Peer::connect(self.tcp, Transport::Tcp);
        peer.authenticate("1");
        peer
    }

    /// Everything serves on.
    fn serves(&self, peers: &mut [Peer]) {
        for peer in peers {
            peer.ask(op::HEARTBEAT, 7, b"");
        }
        self.live();
        assert_eq!(get(self.stat, "/healthz"), (200, "ok\n".to_owned()));
        assert_eq!(http(self.debug, "PUT", "/log/level", "info").0, 200);
    }

    /// The end by a signal, and whether clients are told.
    fn end(self, peers: Vec<Peer>) {
        self.process.signal(Signal::TERM);
        for mut peer in peers {
            assert_eq!(peer.close_notice().reason, "draining");
        }
        assert_eq!(self.process.end(), Some(0));
    }
}

/// Runs the program with a pipe of 4 KiB as its standard error.
fn piped(arguments: &[&str]) -> (Running, BufReader<File>) {
    let (log, stderr) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    fcntl_setpipe_size(&stderr, 4_096).unwrap();
    (Running::start_into(comet(arguments), stderr), BufReader::new(log.into()))
}

#[track_caller]
fn line_with(log: &mut BufReader<File>, text: &str) -> String {
    let mut lines = log.lines().map(Result::unwrap);
    lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("no line with {text}"))
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let server = Server::start("log-unread.toml");
    let mut peers: Vec<_> = (0..8).map(|_| server.live()).collect();
    server.log_much();
    server.serves(&mut peers);
    server.log_too_much();
    server.serves(&mut peers);
    server.end(peers);
}

#[test]
fn lines_that_do_not_fit_are_said_when_the_log_is_read_again() {
    let mut server = Server::start("log-late.toml");
    server.log_too_much();
    let line = line_with(&mut server.log, " lines of the log are missing: ");
    assert!(line.ends_with("too many waited to be written"), "{line}");
    // The pipe has room again, and takes the last line before the end.
    let log = std::thread::spawn(move || {
        line_with(&mut server.log, "2 of 2 cores drained in time");
    });
    server.process.signal(Signal::TERM);
    assert_eq!(server.process.end(), Some(0));
    log.join().unwrap();
}

#[test]
fn a_log_that_is_closed_stops_nothing() {
    let mut server = Server::start("log-closed.toml");
    let mut peers: Vec<_> = (0..8).map(|_| server.live()).collect();
    server.log = BufReader::new(File::open("/dev/null").unwrap());
    server.log_much();
    until("lines to be missing", || server.metric("comet_log_missed_total") >= 100);
    server.serves(&mut peers);
    server.end(peers);
}

#[test]
fn a_full_disk_stops_nothing() {
    let _permit = Permit::wait();
    let (cores, stat) = (two_cores(), own_address());
    let stat_set = format!("monitor.stat=[\"{stat}\"]");
    let sets = with_sets(&["log.file=\"/dev/full\"", &stat_set]);
    let (process, mut stderr) = piped(&[&["--cores", &cores], &sets[..]].concat());
    until("the start", || std::net::TcpStream::connect(stat).is_ok());
    until("health", || get(stat, "/healthz").0 == 200);
    until("lines to be missing", || Metrics::read(stat).value("comet_log_missed_total") > 3);
    assert_eq!(Metrics::read(stat).value("comet_log_lines_total"), 0);
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0));
    let mut printed = String::new();
    stderr.read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "");
}

/// Linux ends a process that reaches the limit, unless it catches the signal.
#[test]
fn a_limit_on_the_size_of_files_stops_nothing() {
    let permit = Permit::wait();
    let log = temporary("limited.log", "");
    let mut command = Command::new("sh");
    // In units of 512 bytes.
    command.args(["-c", "ulimit -f 16; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_comet")]);
    let stat = own_address();
    let [log_set, stat_set] = [format!("log.file={log:?}"), format!("monitor.stat=[\"{stat}\"]")];
    command.args(["--cores", &two_cores()]).args(with_sets(&[&log_set, &stat_set]));
    let (process, _) = Running::start(command);
    until("the start", || std::net::TcpStream::connect(stat).is_ok());
    until("lines to be missing", || {
        // Each is a line of the log.
        process.signal(Signal::HUP);
        Metrics::read(stat).value("comet_log_missed_total") > 0
    });
    assert_eq!(get(stat, "/healthz").0, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0));
    drop(permit);
}

#[test]
fn comet_logic_does_not_wait_for_its_log_either() {
    let sets = ["grpc", "http", "stat"]
        .map(|server| format!("logic_server.{server}=[\"{}\"]", own_address()));
    let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    let (process, mut log) = piped(&[&["logic"], &sets[..]].concat());
    let [_, calls] = addresses(&line_with(&mut log, "http push ["));
    let line = line_with(&mut log, "stat [");
    let stat = line.split(['[', ']']).find_map(|part| part.parse().ok()).unwrap();
    // Each of these is a line as long as its name.
    let path = format!("/comet/sessions/end?server={}", "x".repeat(200));
    for _ in 0..100 {
        assert_eq!(http(calls, "POST", &path, "").0, 200);
    }
    assert_eq!(get(stat, "/healthz").0, 200);
    process.signal(Signal::TERM);
    assert_eq!(process.end(), Some(0));
}

/// The sentence at the end is no reason to stay.
#[test]
fn a_failed_start_ends_though_nobody_reads_why() {
    let (unread, stderr) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    fcntl_setpipe_size(&stderr, 4_096).unwrap();
    assert_eq!(rustix::io::write(&stderr, &[b'x'; 4_096]), Ok(4_096));
    let arguments = with_sets(&["log.file=\"/nonexistent/comet.log\""]);
    let process = Running::start_into(comet(&arguments), stderr);
    assert_eq!(process.end(), Some(1));
    drop(unread);
}
