//! A `comet upgrade --check` that is interrupted before the server has handled its signal.

use std::fs;

use comet_client::Transport;
use rustix::process::Signal;

use super::{Line, token};
use crate::process::{Running, comet, line_with};
use crate::support::{To, queued, until};

/// Whether all threads of a process are stopped. A thread that is not may still handle a signal.
fn is_stopped(pid: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let states = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")));
    states.flatten().all(|stat| stat.contains(") T "))
}

/// Whether a SIGUSR2 is pending for a process.
fn is_signal_pending(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    let pending = u64::from_str_radix(pending.trim(), 16).unwrap();
    pending & (1 << (Signal::USR2.as_raw() - 1)) != 0
}

/// The server must not take the signal for an order to upgrade, although the command no longer listens.
#[test]
fn an_interrupted_check_starts_no_upgrade() {
    let line = Line::start(&[], &[]);
    let mut client = line.server.live(Transport::Tcp, &token(7));
    line.signal(Signal::STOP);
    until("the server to be stopped", || is_stopped(&line.pid));
    let (command, said) = Running::start(comet(&["upgrade", "--check", "--pid", &line.pid]));
    until("the command to send its signal", || is_signal_pending(&line.pid));
    command.signal(Signal::INT);
    line_with(&said, "it ends once the server has looked");
    line.signal(Signal::CONT);
    line_with(&line.server.log, "SIGUSR2: nothing is done");
    line_with(&said, "interrupted: nothing is done");
    assert_eq!(command.end(), Some(1));
    assert_eq!(line.push(To::User(7), b"as before"), queued(1));
    assert_eq!(client.recv().body, b"as before");
    // A later check succeeds.
    assert_eq!(line.ask(&["--check"]).0, 0);
}
