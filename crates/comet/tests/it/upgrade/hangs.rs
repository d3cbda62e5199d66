//! A new process that hangs once it has the whole state. Clients wait about a second, then the former process continues.

use std::path::PathBuf;
use std::{env, fs, thread};

use comet_handover::{FEATURES, VERSION};
use comet_upgrade::{Greeting, Successor};
use rustix::process::{Signal, getpid, kill_process};

use super::{Line, script, token};
use crate::scratch;
use crate::support::{BOTH, PATIENCE, To, queued};

/// With this variable `new_process` runs as a new process. The value names a file that it creates before it hangs.
const ROLE: &str = "COMET_TEST_HANGS";

/// Not a test of its own, but the new process: it receives the state and stops itself.
#[test]
fn new_process() {
    let Some(stopped) = env::var_os(ROLE) else { return };
    let mut successor = Successor::from_environment(PATIENCE).unwrap().unwrap();
    let features = FEATURES.iter().map(|name| (*name).to_owned()).collect();
    let greeting = Greeting { version: VERSION, features };
    let _listeners = successor.greet(&greeting).unwrap();
    let _shards = successor.receive_shards(PATIENCE).unwrap();
    fs::write(stopped, "").unwrap();
    kill_process(getpid(), Signal::STOP).unwrap();
    // The signal may stop another thread first.
    loop {
        thread::park();
    }
}

/// A program, in a file with this name, that hangs as a new process; and the file that it creates before.
pub(super) fn one_that_hangs(name: &str) -> (String, PathBuf) {
    let test = env::current_exe().unwrap();
    let stopped = scratch::folder().join(format!("{name}.time"));
    let _ = fs::remove_file(&stopped);
    let text = format!(
        "{ROLE}={:?} exec {:?} --exact upgrade::hangs::new_process --nocapture",
        stopped.display(),
        test.display()
    );
    (script(name, &text), stopped)
}

#[test]
fn the_server_continues_soon_if_the_new_process_hangs() {
    let mut line = Line::start(&[], &[]);
    let mut clients = [0, 1].map(|user| line.server.live(BOTH[user as usize], &token(user)));
    let (hangs, stopped) = one_that_hangs("upgrade-is-stopped");
    line.fail(&["--binary", &hangs], "does not answer in time");
    // The bound is long, as the machine may be loaded.
    let took = fs::metadata(&stopped).unwrap().modified().unwrap().elapsed().unwrap();
    assert!(took < PATIENCE / 2, "{took:?}");
    assert_eq!(line.metrics().value("comet_upgrades_total{result=\"late\"}"), 1);
    for _ in 0..2 {
        assert_eq!(line.push(To::Room("live://1"), b"here"), queued(2));
        for client in &mut clients {
            assert_eq!(client.recv().body, b"here");
        }
        line.upgrade();
    }
}
