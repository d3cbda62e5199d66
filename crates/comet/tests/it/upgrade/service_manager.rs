//! The messages to the service manager during an upgrade. Without them it would end both processes.

use std::path::Path;
use std::time::Duration;
use std::{env, fs, thread};

use comet_client::Transport;
use comet_handover::{FEATURES, VERSION};
use comet_upgrade::{Greeting, Successor};

use super::{Line, script, token};
use crate::health::Manager;
use crate::process::{self, run};
use crate::scratch;
use crate::support::{PATIENCE, To, queued, until};

/// With this variable `new_process` runs as a new process. The value names a file that it creates once it has the whole state.
const ROLE: &str = "COMET_TEST_IS_SLOW";

/// Not a test of its own, but the new process: it is busy with the state until the file is removed.
#[test]
fn new_process() {
    let Some(taken) = env::var_os(ROLE) else { return };
    let mut successor = Successor::from_environment(PATIENCE).unwrap().unwrap();
    let features = FEATURES.iter().map(|name| (*name).to_owned()).collect();
    let greeting = Greeting { version: VERSION, features };
    let _listeners = successor.greet(&greeting).unwrap();
    let _shards = successor.receive_shards(PATIENCE).unwrap();
    fs::write(&taken, "").unwrap();
    while Path::new(&taken).exists() {}
}

fn start(manager: &Manager) -> Line {
    let path = manager.path.to_str().unwrap();
    // The server feeds this watchdog every 200 ms.
    let environment = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "400000")];
    Line::of(process::Server::start_in(&environment, &[], &[]))
}

/// A core that is silent for three seconds stops the messages to the watchdog, but a frozen core has to be silent.
#[test]
fn the_watchdog_is_fed_during_a_slow_hand_over() {
    let manager = Manager::new("slow.notify");
    let line = start(&manager);
    let mut client = line.server.live(Transport::Tcp, &token(7));
    let taken = scratch::folder().join("upgrade-is-slow.taken");
    let _ = fs::remove_file(&taken);
    let text = format!(
        "{ROLE}={taken:?} exec {:?} --exact upgrade::service_manager::new_process --nocapture",
        env::current_exe().unwrap()
    );
    let (slow, pid) = (script("upgrade-is-slow", &text), line.pid.clone());
    let order = thread::spawn(move || run(&["upgrade", "--pid", &pid, "--binary", &slow]));
    until("the new process to have the whole state", || taken.exists());
    let begin = fs::metadata(&taken).unwrap().modified().unwrap();
    let mut is_fed = false;
    while !is_fed && !order.is_finished() {
        is_fed = manager.told() == "WATCHDOG=1"
            && begin.elapsed().unwrap() > Duration::from_millis(3_500);
    }
    assert!(is_fed, "the service manager would have ended both processes");
    fs::remove_file(taken).unwrap();
    let (code, said, error) = order.join().unwrap();
    assert_eq!((code, &*said), (1, ""), "{error}");
    assert!(error.contains("the new process ended"), "{error}");
    assert_eq!(line.push(To::User(7), b"as before"), queued(1));
    assert_eq!(client.recv().body, b"as before");
}

/// Both processes send the new process ID, as the former one may end before its message is read.
#[test]
fn each_process_names_the_new_main_process() {
    let manager = Manager::new("main.notify");
    let mut line = start(&manager);
    let pid = line.pid.clone();
    let order = thread::spawn(move || run(&["upgrade", "--pid", &pid]));
    // Read during the upgrade, as messages to a full queue are lost.
    let notices = std::iter::repeat_with(|| manager.told());
    let named: Vec<_> = notices.filter(|told| told.starts_with("MAINPID=")).take(2).collect();
    let (code, said, error) = order.join().unwrap();
    assert_eq!((code, &*error), (0, ""), "{said}");
    line.moved(&said);
    assert_eq!(named, [(); 2].map(|()| format!("MAINPID={}", line.pid)));
}
