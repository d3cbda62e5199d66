//! Signals to the former process during the hand-over.

use std::path::Path;
use std::{fs, thread};

use comet_client::{Transport, op};
use rustix::process::Signal;

use super::{Line, script, talking, token};
use crate::peer::message;
use crate::process::{line_with, run};
use crate::scratch;
use crate::support::{BOTH, To, queued, until, until_in_time};

/// The new process is slow. The signal ends it, and the server drains.
#[test]
fn sigterm_before_the_commit_ends_the_new_process_and_drains() {
    let line = Line::start(&[], &[]);
    let mut client = line.server.live(Transport::Tcp, &token(7));
    let started = scratch::folder().join("upgrade-is-ended.pid");
    let _ = fs::remove_file(&started);
    let text =
        format!("echo $$ > {started:?}.new; mv {started:?}.new {started:?}; exec sleep 1000");
    let (late, pid) = (script("upgrade-is-ended", &text), line.pid.clone());
    let order = thread::spawn(move || run(&["upgrade", "--pid", &pid, "--binary", &late]));
    until("the new process to start", || started.exists());
    line.signal(Signal::TERM);
    let (code, said, error) = order.join().unwrap();
    assert_eq!((code, &*said), (1, ""), "{error}");
    assert!(error.contains("SIGTERM ends it"), "{error}");
    client.close_notice();
    line_with(&line.server.log, "SIGTERM: closing all connections");
    let new = fs::read_to_string(started).unwrap();
    assert!(!Path::new("/proc").join(new.trim()).exists(), "process {new} is left");
}

/// The server waits for replies of logic to its clients, and the new process has read its configuration already.
#[test]
fn sigint_during_the_freeze_ends_the_wait_for_logic() {
    until_in_time(a_signal_ends_a_wait_for_logic);
}

fn a_signal_ends_a_wait_for_logic() -> bool {
    let (logic, mut line) = talking::start();
    let mut client = line.server.live(BOTH[0], "7");
    logic.hold(true);
    client.send(op::SEND, 1, b"asked before");
    talking::received(&logic);
    let order = talking::order(&line);
    line.signal(Signal::INT);
    let ((code, said, error), may_be_late) = order.end();
    if code == 0 && may_be_late {
        line.moved(&said);
        return false;
    }
    assert_eq!((code, &*said), (1, ""), "{error}");
    assert!(error.contains("SIGINT ends it"), "{error}");
    line_with(&line.server.log, "SIGINT: closing all connections");
    logic.hold(false);
    true
}

/// SIGHUP comes after the new process has read its configuration, so it must reach that process.
#[test]
fn sighup_during_the_hand_over_reaches_the_new_process() {
    until_in_time(a_reload_comes_amid_a_wait_for_logic);
}

fn a_reload_comes_amid_a_wait_for_logic() -> bool {
    let (logic, mut line) = talking::start();
    let mut client = line.server.live(BOTH[0], "7");
    logic.hold(true);
    client.send(op::SEND, 1, b"asked before");
    talking::received(&logic);
    let order = talking::order(&line);
    line.signal(Signal::HUP);
    logic.hold(false);
    if order.has_moved_all(&mut line).is_none() {
        return false;
    }
    line_with(&line.server.log, "SIGHUP: no key has changed");
    assert_eq!(client.recv(), message(op::SEND, 1, b""));
    assert_eq!(line.push(To::User(7), b"later"), queued(1));
    assert_eq!(client.recv().body, b"later");
    true
}
