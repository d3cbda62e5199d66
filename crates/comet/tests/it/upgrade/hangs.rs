//! A new process that hangs with everything in its hands: clients wait for about a second.

use std::env;
use std::time::{Duration, Instant};

use comet_handover::{FEATURES, VERSION};
use comet_upgrade::{Greeting, Successor};
use rustix::process::{Signal, getpid, kill_process};

use super::{Line, script, token};
use crate::support::{BOTH, PATIENCE, To, queued};

/// Tells the test that is not one that it is started as a new process.
const ROLE: &str = "COMET_TEST_HANGS";

/// Not a test: the new process, which takes all and is stopped.
#[test]
fn new_process() {
    if env::var_os(ROLE).is_none() {
        return;
    }
    let mut successor = Successor::from_environment(PATIENCE).unwrap().unwrap();
    let features = FEATURES.iter().map(|name| (*name).to_owned()).collect();
    let greeting = Greeting { version: VERSION, features };
    let _listeners = successor.greet(&greeting).unwrap();
    let _shards = successor.receive_shards(PATIENCE).unwrap();
    kill_process(getpid(), Signal::STOP).unwrap();
    unreachable!("the former process ends it");
}

/// The path of a program that does so, in a file of this name.
pub(super) fn one_that_hangs(name: &str) -> String {
    let test = env::current_exe().unwrap();
    let text =
        format!("{ROLE}=1 exec {} --exact upgrade::hangs::new_process --nocapture", test.display());
    script(name, &text)
}

#[test]
fn clients_wait_about_a_second_for_one_that_hangs() {
    let mut line = Line::start(&[], &[]);
    let mut clients = [0, 1].map(|user| line.server.live(BOTH[user as usize], &token(user)));
    let hangs = one_that_hangs("upgrade-is-stopped");
    let begin = Instant::now();
    line.fail(&["--binary", &hangs], "does not answer in time");
    // The rest is for the start, and for callers and clients that are waited for before.
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(line.metrics().value("comet_upgrades_total{result=\"late\"}"), 1);
    for _ in 0..2 {
        assert_eq!(line.push(To::Room("live://1"), b"here"), queued(2));
        for client in &mut clients {
            assert_eq!(client.recv().body, b"here");
        }
        line.upgrade();
    }
}
