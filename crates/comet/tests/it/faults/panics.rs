//! A panic of a thread, whichever it is: the process ends at once, and says why. What makes a thread panic is in
//! builds with debug assertions alone.

#![cfg(debug_assertions)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use comet_client::Transport;
use rustix::process::Signal;

use crate::logic_process::own_address;
use crate::peer::Peer;
use crate::process::{Running, Server, comet, line_with};

/// The thread that logs a text panics, or the one that writes it.
const LOGS: &str = "PANIC_WHEN_LOGGED";
const WRITES: &str = "PANIC_WHEN_WRITTEN";

fn bad_frame(server: &Server, _: SocketAddr) {
    Peer::connect(server.tcp, Transport::Tcp).write(&[0; 16]);
}

fn reload(server: &Server, _: SocketAddr) {
    server.signal(Signal::HUP);
}

fn change_level(_: &Server, debug: SocketAddr) {
    let mut stream = TcpStream::connect(debug).unwrap();
    let request = b"PUT /log/level HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\ninfo";
    stream.write_all(request).unwrap();
    // It is not answered.
    let _ = stream.read_to_end(&mut Vec::new());
}

/// The process has ended by SIGABRT, and standard error has a line with `thread` and the reason.
#[track_caller]
fn is_panic((status, logged): (ExitStatus, Vec<String>), thread: &str, variable: &str) {
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{thread}: {logged:?}");
    let begin = format!("thread \"{thread}");
    let is_reason = |line: &&String| line.contains(&begin) && line.contains(" panicked at ");
    let reason = logged.iter().find(is_reason).unwrap_or_else(|| panic!("{thread}: {logged:?}"));
    assert!(reason.contains(variable), "{reason}");
}

/// After `act` the server ends by a panic of `thread`.
fn check(variable: &str, text: &str, thread: &str, act: fn(&Server, SocketAddr)) {
    let debug = own_address();
    let set = format!("monitor.pprof=[\"{debug}\"]");
    let server = Server::start_in(&[(variable, text)], &[], &[&set]);
    let mut live = server.live(Transport::Tcp, "1");
    act(&server, debug);
    is_panic(server.end_status(), thread, variable);
    // The kernel has ended the connection.
    let end = live.stream.read_to_end(&mut Vec::new());
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn a_panic_of_any_thread_ends_the_process_with_its_reason() {
    check(LOGS, "reason=bad_frame", "comet-core-", bad_frame);
    check(LOGS, "by a call of", "comet-control", change_level);
    check(LOGS, "SIGHUP", "main", reload);
    check(WRITES, "reason=bad_frame", "comet-log", bad_frame);
}

/// `comet logic` ends by a panic of `thread`. If it does not by itself, SIGHUP makes it.
fn check_logic(variable: &str, text: &str, thread: &str, by_signal: bool) {
    let own = ["grpc", "http", "stat"]
        .map(|server| format!("logic_server.{server}=[\"{}\"]", own_address()));
    // Nobody is there.
    let comets = format!("logic_server.comets=[\"a={}\"]", own_address());
    let sets = own.iter().chain([&comets]).flat_map(|set| ["--set", set]);
    let mut command = comet(&["logic"].into_iter().chain(sets).collect::<Vec<_>>());
    command.env(variable, text);
    let (process, log) = Running::start(command);
    if by_signal {
        line_with(&log, "stat [");
        process.signal(Signal::HUP);
    }
    is_panic(process.end_status(&log), thread, variable);
}

#[test]
fn a_panic_of_any_thread_ends_comet_logic_with_its_reason() {
    check_logic(LOGS, " is gone: ", "comet-logic", false);
    check_logic(LOGS, "SIGHUP", "main", true);
    check_logic(WRITES, " is gone: ", "comet-log", false);
}
