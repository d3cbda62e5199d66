//! `--check` and a start report the same mistakes, all of them at once.

use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;

use crate::logic_process::own_address;
use crate::process::{Running, Server, comet, line_with, run, temporary, with_sets};
use crate::support::{Permit, two_cores, until, until_in_time};
use crate::tls::Certificates;

/// Runs the program with `sets`, as a check and as a start. Both must print `lines`.
#[track_caller]
fn check_reports(command: &[&str], sets: &[String], lines: &[String]) {
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let sets = match command {
        [] => with_sets(&sets),
        _ => sets.into_iter().flat_map(|set| ["--set", set]).collect(),
    };
    for check in [&["--check"][..], &[]] {
        let (code, printed, said) = run(&[command, check, &sets].concat());
        assert_eq!((code, printed.as_str()), (1, ""), "{check:?}: {said}");
        let said = said.strip_prefix("comet: ").unwrap();
        let found: Vec<&str> = said.lines().collect();
        assert_eq!(found.len(), lines.len(), "{said}");
        for (found, expected) in found.iter().zip(lines) {
            assert!(found.starts_with(expected.as_str()), "{expected}: {found}");
        }
    }
}

/// An address that is in use as long as the listener exists.
fn taken() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn everything_that_a_start_opens_is_checked() {
    let (_clients, clients) = taken();
    let (_callers, callers) = taken();
    let certificates = Certificates::new(&["a.example", "b.example"]);
    let [chain, _] = certificates.files("a.example");
    let [_, other_key] = certificates.files("b.example");
    let secret = temporary("preflight.secret", "too short");
    let nowhere = "/nonexistent/file";
    let in_use = |setting: &str, address: SocketAddr| {
        format!("{setting}: {address} is in use: stop what listens there")
    };
    let sets = [
        format!("server.pid_file={nowhere:?}"),
        "token.kind=\"jwt\"".to_owned(),
        format!("token.jwt_keys=[{nowhere:?}, {secret:?}]"),
        format!("tls.certificates=[{nowhere:?}, {chain:?}]"),
        format!("tls.keys=[{nowhere:?}, {other_key:?}]"),
        "websocket.tls_bind=[\"127.0.0.1:0\"]".to_owned(),
        format!("tcp.bind=[\"{clients}\", \"192.0.2.1:9\"]"),
        format!("monitor.pprof=[\"{callers}\"]"),
        format!("log.file={nowhere:?}"),
        "white_list.users=[1]".to_owned(),
        format!("white_list.file={nowhere:?}"),
    ];
    check_reports(
        &[],
        &sets,
        &[
            format!("server.pid_file: cannot write {nowhere}: No such file"),
            format!("token.jwt_keys: {nowhere}: No such file"),
            format!("token.jwt_keys: {secret}: "),
            format!("tls.certificates[0]: {nowhere} cannot be read: No such file"),
            format!("tls.keys[0]: {nowhere} cannot be read: No such file"),
            format!("tls.keys[1]: {other_key} is not the key of the certificate in {chain}"),
            in_use("tcp.bind", clients),
            "tcp.bind: 192.0.2.1:9 is no address of this host".to_owned(),
            in_use("monitor.pprof", callers),
            format!("log.file: cannot open {nowhere}: No such file"),
            format!("white_list.file: cannot write {nowhere}: No such file"),
        ],
    );
}

#[test]
fn everything_that_logic_opens_is_checked() {
    let (_taken, taken) = taken();
    let nowhere = "/nonexistent/file";
    check_reports(
        &["logic"],
        &[
            "token.kind=\"jwt\"".to_owned(),
            format!("token.jwt_keys=[{nowhere:?}]"),
            "logic_server.store=\"redis\"".to_owned(),
            "logic_server.redis=[\"rediss://127.0.0.1\"]".to_owned(),
            format!("logic_server.redis_ca={nowhere:?}"),
            format!("logic_server.grpc=[\"{taken}\"]"),
            "logic_server.http=[]".to_owned(),
            "logic_server.stat=[\"192.0.2.1:9\"]".to_owned(),
            "logic_server.insecure=true".to_owned(),
            format!("log.file={nowhere:?}"),
        ],
        &[
            format!("token.jwt_keys: {nowhere}: No such file"),
            format!("logic_server.redis_ca: {nowhere}: No such file"),
            format!("logic_server.grpc: {taken} is in use: stop what listens there"),
            "logic_server.stat: 192.0.2.1:9 is no address of this host".to_owned(),
            format!("log.file: cannot open {nowhere}: No such file"),
        ],
    );
    let sets = ["grpc", "http", "stat"].map(|key| format!("logic_server.{key}=[]"));
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let (code, printed, said) = run(&[&["logic", "--check"], &sets[..]].concat());
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(printed.contains("\n[logic_server]\n"), "{printed}");
}

#[test]
fn a_check_leaves_no_file_behind() {
    let path = |name: &str| {
        let path = temporary(name, "");
        fs::remove_file(&path).unwrap();
        path
    };
    let paths = ["check.pid", "check.log", "check.trace"].map(path);
    let keys = ["server.pid_file", "log.file", "white_list.file"];
    let sets: Vec<String> =
        keys.iter().zip(&paths).map(|(key, path)| format!("{key}={path:?}")).collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let (code, _, said) = run(&[&["--check"], &with_sets(&sets)[..]].concat());
    assert_eq!((code, said.as_str()), (0, ""));
    for path in paths {
        assert!(!Path::new(&path).exists(), "{path}");
    }
}

/// A check before a reload.
#[test]
fn a_check_accepts_what_the_running_server_has_in_use() {
    let pid_file = temporary("running.pid", "");
    for with_pid_file in [false, true] {
        let permit = Permit::wait();
        let [clients, callers] = [own_address(), own_address()];
        let sets = [
            format!("tcp.bind=[\"{clients}\"]"),
            format!("push.grpc=[\"{callers}\"]"),
            format!("server.cores={:?}", two_cores()),
            format!("server.pid_file={pid_file:?}"),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let line = with_sets(&sets[..if with_pid_file { 4 } else { 3 }]);
        let (running, log) = Running::start(comet(&line));
        line_with(&log, "stat [");
        // The process writes its ID after it has created the file.
        while with_pid_file && fs::read_to_string(&pid_file).unwrap().trim().is_empty() {}
        // With a PID file the server is found even if the settings differ.
        let newer: &[&str] = if with_pid_file { &["--set", "protocol.svr_proto=7"] } else { &[] };
        let (code, _, said) = run(&[&["--check"], &line[..], newer].concat());
        assert_eq!(code, 0, "{said}");
        let id = running.0.id();
        let note =
            format!("comet: process {id} is running with this configuration, so what it holds");
        assert!(said.starts_with(&note) && said.lines().count() == 1, "{said}");

        // Another configuration with an address of this server.
        let other = format!("tcp.bind=[\"{clients}\"]");
        let (code, _, said) = run(&[&["--check"], &with_sets(&[&other])[..]].concat());
        assert_eq!(code, 1, "{said}");
        let sentence = format!("comet: tcp.bind: {clients} is in use: ");
        assert!(said.starts_with(&sentence) && said.lines().count() == 1, "{said}");
        // A second start of this server fails.
        let (code, _, said) = run(&line);
        let sentence = if with_pid_file {
            format!("comet: server.pid_file: {pid_file} belongs to process {id}, which is running")
        } else {
            sentence
        };
        assert!(code == 1 && said.starts_with(&sentence), "{said}");
        running.signal(Signal::TERM);
        assert_eq!(running.end(), Some(0));
        drop(permit);
    }
}

#[test]
fn a_check_reports_an_address_of_another_process() {
    let (_taken, taken) = taken();
    let pid_file = temporary("beside.pid", "");
    let set = format!("server.pid_file={pid_file:?}");
    let _server = Server::start(&[&set]);
    while fs::read_to_string(&pid_file).unwrap().trim().is_empty() {}
    let other = format!("websocket.bind=[\"{taken}\"]");
    let (code, _, said) = run(&[&["--check"], &with_sets(&[&set, &other])[..]].concat());
    let sentence = format!("comet: websocket.bind: {taken} is in use: ");
    assert!(code == 1 && said.starts_with(&sentence) && said.lines().count() == 1, "{said}");
}

/// Memory of rings counts as locked memory, unless the process may lock any amount. The kernel counts it by user, so where
/// possible the program runs as a user of its own, with permission to read the files of this one.
#[test]
fn a_limit_of_locked_memory_too_low_for_the_rings_is_reported() {
    let cores = two_cores();
    let line = with_sets(&[]).iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let run = |limit_kib: u32, check: &str| {
        let program = env!("CARGO_BIN_EXE_comet");
        let script = format!(
            "set -e
             ulimit -l {limit_kib}
             user=\"--reuid=$((10000 + $$ % 50000)) --ambient-caps=+dac_read_search\"
             setpriv $user --inh-caps=+dac_read_search true 2>/dev/null || user=
             exec setpriv $user --bounding-set=-ipc_lock --inh-caps=-ipc_lock${{user:+,+dac_read_search}} \
             '{program}' {check} --cores {cores} {line}"
        );
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for check in ["--check", ""] {
        let (code, said) = run(300, check);
        assert_eq!(code, Some(1), "{said}");
        let sentence = "comet: locked memory is limited to 300 KiB: raise it to at least 512 KiB";
        assert!(said.starts_with(sentence), "{said}");
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut version = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    if (version.next(), version.next()) < (Some(6), Some(18)) {
        return;
    }
    for check in ["--check", ""] {
        let (code, said) = run(600, check);
        assert_eq!(code, Some(1), "{said}");
        let sentence =
            "comet: locked memory is limited to 600 KiB, and the rings of all cores need ";
        assert!(said.starts_with(sentence), "{said}");
    }
    // A check itself takes a tenth of this.
    assert_eq!(run(768, "--check").0, Some(0));
}

/// A listener that belongs to no process, as it is in transit through the stream. A listener of a killed process is in the same
/// state until the kernel has closed its ring.
fn without_process(address: SocketAddr) -> [UnixStream; 2] {
    let listener = TcpListener::bind(address).unwrap();
    let (sender, receiver) = UnixStream::pair().unwrap();
    let descriptors = [listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(&sender, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    [sender, receiver]
}

/// The time that a start waits for an address.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn a_start_waits_for_the_addresses_of_a_process_that_was_killed() {
    for setting in ["tcp.bind", "push.grpc"] {
        until_in_time(|| waits_for_its_address(setting));
    }
}

fn waits_for_its_address(setting: &str) -> bool {
    let _permit = Permit::wait();
    let address = own_address();
    let in_transit = without_process(address);
    let bind = format!("{setting}=[\"{address}\"]");
    let cores = two_cores();
    let arguments = [&["--cores", &cores][..], &with_sets(&[&bind])].concat();
    let begun = Instant::now();
    let (process, log) = Running::start(comet(&arguments));
    // The process retries at intervals, and sleeps between them.
    let status = format!("/proc/{}/status", process.0.id());
    let sleeps = || {
        let status = fs::read_to_string(&status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("the process runs").trim().parse::<u32>().unwrap()
    };
    until("the process to wait", || sleeps() > 10 || begun.elapsed() >= RELEASE_TIMEOUT);
    // Longer than a start waits for a process that may be about to end.
    thread::sleep(Duration::from_millis(600));
    drop(in_transit);
    let is_late = begun.elapsed() >= RELEASE_TIMEOUT;
    if !is_late {
        line_with(&log, "debug [");
    }
    !is_late
}
