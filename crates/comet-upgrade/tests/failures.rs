//! A process hands over to another one, which fails in every way. The other one is this file's [`new_process`].
#![allow(clippy::disallowed_methods, reason = "the test has processes and a clock")]

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, process, thread};

use comet_upgrade::{Channel, Failure, Greeting, Predecessor, Successor, Timeouts, upgrade};

/// How the new process behaves.
const MODE: &str = "COMET_UPGRADE_TEST_MODE";
/// The time after which a test fails.
const LIMIT: Duration = Duration::from_secs(20);
const SOCKETS: usize = 600;

fn greeting() -> Greeting {
    Greeting { version: 3, features: vec!["streams".into()] }
}

/// Not a test: the other tests start it as a process.
#[test]
fn new_process() {
    let Ok(mode) = env::var(MODE) else { return };
    let mut successor = Successor::from_environment(LIMIT).unwrap().unwrap();
    let mut own = greeting();
    match &*mode {
        "ends at once" => process::exit(3),
        "bad configuration" => {
            successor.refuse("limits.rooms: 0 is too few");
            process::exit(2);
        }
        "hangs at once" => thread::sleep(LIMIT * 2),
        "older" => own.version = 2,
        "knows less" => own.features.clear(),
        _ => {}
    }
    // An error: the former process does not want it.
    let Ok((names, listeners)) = successor.greet(&own) else { process::exit(4) };
    assert_eq!((names.to_vec(), listeners.len()), (b"listeners".to_vec(), 1));
    match &*mode {
        "refuses the listeners" => {
            successor.refuse("not these listeners");
            process::exit(2);
        }
        "hangs with the listeners" => thread::sleep(LIMIT * 2),
        _ => {}
    }
    if mode == "refuses amid the state" {
        // The former process has more to send than the socket takes, and nothing of it is read.
        successor.receive_shards(Duration::ZERO).unwrap_err();
        successor.refuse("out of memory");
        process::exit(2);
    }
    let shards = successor.receive_shards(LIMIT).unwrap();
    let found: Vec<_> = shards.iter().map(|(state, fds)| (&state[..], fds.len())).collect();
    assert_eq!(found, [(&[7; 3_000_000][..], SOCKETS), (&b"empty"[..], 0)]);
    match &*mode {
        "dies with the sockets" => process::abort(),
        "hangs with the sockets" => thread::sleep(LIMIT * 2),
        "is stopped with the sockets" => stop(),
        "is busy with the sockets" => {
            // Longer than the wait for a process that hangs.
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(3) {
                std::hint::spin_loop();
            }
        }
        "refuses the state" => {
            successor.refuse("frame 7 of 5");
            process::exit(2);
        }
        _ => {}
    }
    if successor.wait_for_commit().is_err() {
        process::exit(5);
    }
    // The new process goes on with the sockets.
    let sockets = shards.into_iter().next().unwrap().1;
    for socket in sockets {
        UnixStream::from(socket).write_all(b"new").unwrap();
    }
    process::exit(0);
}

/// Stops the process until a signal ends it.
fn stop() -> ! {
    let this = process::id().to_string();
    Command::new("kill").args(["-STOP", &this]).status().unwrap();
    // The signal may stop another thread first.
    loop {
        thread::park();
    }
}

/// The former process.
struct Former {
    listener: UnixStream,
    ours: Vec<UnixStream>,
    clients: Vec<UnixStream>,
    steps: Vec<&'static str>,
    /// Why it cannot freeze.
    obstacle: Option<&'static str>,
    /// How long the freeze takes.
    freezes: Duration,
    /// Whether the hand-over is called off after these steps.
    is_called_off: fn(&[&str]) -> bool,
}

impl Former {
    fn new() -> Self {
        let (ours, clients) = (0..SOCKETS).map(|_| UnixStream::pair().unwrap()).unzip();
        let listener = UnixStream::pair().unwrap().0;
        let (steps, freezes) = (Vec::new(), Duration::ZERO);
        let is_called_off = |_: &[&str]| false;
        Self { listener, ours, clients, steps, obstacle: None, freezes, is_called_off }
    }

    fn run(&mut self, mode: &str) -> Result<u32, Failure> {
        self.run_for(mode, 3 * LIMIT)
    }

    /// The same, with this much time from the freeze to the commit.
    fn run_for(&mut self, mode: &str, frozen: Duration) -> Result<u32, Failure> {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "new_process", "--nocapture"]).env(MODE, mode);
        let hangs_before = mode.starts_with("hangs") && !mode.contains("sockets");
        let start = if hangs_before { Duration::from_secs(1) } else { LIMIT };
        upgrade(self, command, Timeouts { start, frozen })
    }

    /// The next bytes that the client of each socket reads.
    fn expect(&mut self, bytes: &[u8]) {
        for client in &mut self.clients {
            let mut found = vec![0; bytes.len()];
            client.set_read_timeout(Some(LIMIT)).unwrap();
            client.read_exact(&mut found).unwrap();
            assert_eq!(found, bytes);
        }
    }

    /// The former process has all its sockets, and no other process has them.
    fn expect_goes_on(&mut self) {
        for socket in &mut self.ours {
            socket.write_all(b"former").unwrap();
        }
        self.expect(b"former");
        self.ours.clear();
        for client in &mut self.clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "another process has the socket");
        }
    }
}

impl Predecessor for Former {
    fn greeting(&self) -> Greeting {
        greeting()
    }

    fn listeners(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
        (b"listeners".to_vec(), vec![self.listener.as_fd()])
    }

    fn freeze(&mut self) -> Result<(), String> {
        self.steps.push("freeze");
        thread::sleep(self.freezes);
        self.obstacle.map_or(Ok(()), |obstacle| Err(obstacle.into()))
    }

    fn send(&mut self, mut channel: Channel) -> io::Result<Channel> {
        self.steps.push("send");
        let sockets: Vec<_> = self.ours.iter().map(AsFd::as_fd).collect();
        channel.send_shard(&[7; 3_000_000], &sockets)?;
        channel.send_shard(b"empty", &[])?;
        Ok(channel)
    }

    fn check_wanted(&mut self) -> Result<(), String> {
        match (self.is_called_off)(&self.steps) {
            true => Err("a signal ends it".into()),
            false => Ok(()),
        }
    }

    fn thaw(&mut self) {
        self.steps.push("thaw");
    }

    fn release(&mut self) {
        self.steps.push("release");
        self.ours.clear();
    }
}

/// Fails in `mode` with `sentence`, after `steps`.
fn expect_failure(mode: &str, sentence: &str, steps: &[&str]) {
    let mut former = Former::new();
    let begin = Instant::now();
    let failure = former.run(mode).unwrap_err().to_string();
    assert!(failure.contains(sentence), "{mode}: {failure}");
    assert!(begin.elapsed() < LIMIT, "{mode}: it was waited for too long");
    assert_eq!(former.steps, steps, "{mode}");
    former.expect_goes_on();
}

const NOT_FROZEN: &[&str] = &[];
const BACK: &[&str] = &["freeze", "send", "thaw"];

#[test]
fn the_new_process_goes_on_with_the_sockets() {
    let mut former = Former::new();
    former.run("well").unwrap();
    assert_eq!(former.steps, ["freeze", "send", "release"]);
    former.expect(b"new");
}

/// The wait for answers while the process still serves has a bound of its own.
#[test]
fn a_freeze_takes_no_time_from_the_hand_over() {
    let mut former = Former::new();
    former.freezes = Duration::from_secs(10);
    former.run_for("well", former.freezes).unwrap();
    former.expect(b"new");
}

#[test]
fn a_binary_that_does_not_start_changes_nothing() {
    let mut former = Former::new();
    let timeouts = Timeouts { start: LIMIT, frozen: LIMIT };
    let failure = upgrade(&mut former, Command::new("/nonexistent/comet"), timeouts).unwrap_err();
    assert!(matches!(failure, Failure::Start(_)), "{failure}");
    former.expect_goes_on();
}

#[test]
fn a_process_that_ends_at_once_changes_nothing() {
    expect_failure("ends at once", "exit status: 3", NOT_FROZEN);
}

#[test]
fn a_bad_configuration_is_named_and_changes_nothing() {
    expect_failure("bad configuration", "refuses: limits.rooms: 0 is too few", NOT_FROZEN);
}

#[test]
fn a_process_that_hangs_at_once_is_ended() {
    expect_failure("hangs at once", "in time", NOT_FROZEN);
}

#[test]
fn a_process_of_an_older_format_is_ended() {
    expect_failure("older", "it reads version 2, not 3", NOT_FROZEN);
}

#[test]
fn a_process_that_does_not_know_a_feature_is_ended() {
    expect_failure("knows less", "it does not know streams", NOT_FROZEN);
}

#[test]
fn a_process_that_refuses_the_listeners_changes_nothing() {
    expect_failure("refuses the listeners", "not these listeners", NOT_FROZEN);
}

#[test]
fn a_process_that_hangs_with_the_listeners_is_ended() {
    expect_failure("hangs with the listeners", "in time", NOT_FROZEN);
}

#[test]
fn a_process_that_dies_with_the_sockets_leads_back() {
    expect_failure("dies with the sockets", "signal", BACK);
}

#[test]
fn a_process_that_hangs_with_the_sockets_is_ended_and_leads_back() {
    expect_failure("hangs with the sockets", "in time", BACK);
}

#[test]
fn a_process_that_is_stopped_with_the_sockets_is_ended_and_leads_back() {
    expect_failure("is stopped with the sockets", "in time", BACK);
}

#[test]
fn a_process_that_is_busy_with_the_sockets_is_waited_for() {
    let mut former = Former::new();
    former.run("is busy with the sockets").unwrap();
    former.expect(b"new");
}

#[test]
fn a_refusal_before_the_whole_state_was_sent_is_read() {
    expect_failure("refuses amid the state", "refuses: out of memory", BACK);
}

#[test]
fn a_process_that_refuses_the_state_leads_back() {
    expect_failure("refuses the state", "refuses: frame 7 of 5", BACK);
}

#[test]
fn a_former_process_that_cannot_freeze_goes_on() {
    let mut former = Former::new();
    former.obstacle = Some("under way: 1 paced broadcast");
    let failure = former.run("well").unwrap_err().to_string();
    assert_eq!(failure, "this process cannot hand over: under way: 1 paced broadcast");
    assert_eq!(former.steps, ["freeze", "thaw"]);
    former.expect_goes_on();
}

/// The hand-over ends at once while the new process hangs, and at any step up to the commit.
#[test]
fn a_former_process_that_is_to_end_does_not_hand_over() {
    for (mode, is_called_off, steps) in [
        ("hangs at once", (|_| true) as fn(&[&str]) -> bool, NOT_FROZEN),
        ("hangs with the listeners", |_| true, NOT_FROZEN),
        ("is busy with the sockets", |steps| steps.contains(&"send"), BACK),
        ("well", |steps| steps.contains(&"send"), BACK),
    ] {
        let mut former = Former::new();
        former.is_called_off = is_called_off;
        let failure = former.run(mode).unwrap_err().to_string();
        assert_eq!(failure, "this process cannot hand over: a signal ends it", "{mode}");
        assert_eq!(former.steps, steps, "{mode}");
        former.expect_goes_on();
    }
}
