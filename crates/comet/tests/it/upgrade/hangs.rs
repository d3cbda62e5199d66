//! A new process that hangs with everything in its hands: clients wait for about a second.

use std::path::PathBuf;
use std::{env, fs, thread};

use comet_handover::{FEATURES, VERSION};
use comet_upgrade::{Greeting, Successor};
use rustix::process::{Signal, getpid, kill_process};

use super::{Line, script, token};
use crate::scratch;
use crate::support::{BOTH, PATIENCE, To, queued};

/// Tells the test that is not one that it is started as a new process, and names a file that it makes before it hangs.
const ROLE: &str = "COMET_TEST_HANGS";

/// Not a test: the new process, which takes all and is stopped.
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

/// A program that does so, in a file of this name, and the file that it writes then.
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
fn clients_wait_about_a_second_for_one_that_hangs() {
    let mut line = Line::start(&[], &[]);
    let mut clients = [0, 1].map(|user| line.server.live(BOTH[user as usize], &token(user)));
    let (hangs, stopped) = one_that_hangs("upgrade-is-stopped");
    line.fail(&["--binary", &hangs], "does not answer in time");
    // Most of the bound is for a loaded machine.
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
