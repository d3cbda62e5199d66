//! Signals that reach the former process while it hands over.

use std::path::Path;
use std::{fs, thread};

use comet_client::{Transport, op};
use rustix::process::Signal;

use super::{Line, script, talking, token};
use crate::peer::message;
use crate::process::{line_with, run};
use crate::scratch;
use crate::support::{BOTH, To, queued, until, until_in_time};

/// A new process that takes its time is ended, and the server drains.
#[test]
fn a_signal_to_end_prevails_until_the_commit() {
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

/// Amid the waits for clients, when the new process has read its configuration.
#[test]
fn a_signal_to_end_ends_the_waits_of_a_freeze() {
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

/// The new process has read its configuration before the order to read it again.
#[test]
fn an_order_to_reload_reaches_the_process_that_goes_on() {
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
