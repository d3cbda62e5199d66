//! New processes that have too little memory for what they are handed: the former one goes on, and its client has lost nothing.

use std::fs;
use std::path::Path;

use comet_client::Transport;

use super::{Line, script, token};
use crate::peer::Peer;
use crate::support::{To, queued};

/// Pushes that wait for the client, each of this size; and so many that a process has no address space for them twice.
const PUSHES: u32 = 24;
const MANY_PUSHES: u32 = 96;
const BYTES: usize = 1 << 20;

/// More than a process has beside what waits for clients.
const SLACK: u64 = 8 << 20;

const SETS: [&str; 4] = [
    "tcp.sndbuf=262144",
    "protocol.write_timeout=\"5m\"",
    "protocol.outbox_bytes=\"128MiB\"",
    "protocol.svr_proto=1000",
];

fn body(number: u32) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(BYTES, number as u8);
    body
}

/// A server, a client that reads nothing, and what is to be known of it before something waits for them.
fn start<T>(pushes: u32, look: impl FnOnce(&Line) -> T) -> (Line, Peer, T) {
    let line = Line::start(&[], &SETS);
    let client = line.server.live(Transport::Tcp, &token(1));
    let seen = look(&line);
    for number in 0..pushes {
        assert_eq!(line.push(To::Room("live://1"), &body(number)), queued(1));
    }
    (line, client, seen)
}

/// All that waited comes, and what is pushed now; and then another process takes over.
fn expect_goes_on(pushes: u32, (mut line, mut client): (Line, Peer)) {
    assert_eq!(line.metrics().value("comet_connections"), 1);
    assert_eq!(line.push(To::Room("live://1"), &body(pushes)), queued(1));
    for number in 0..=pushes {
        assert!(client.recv().body == body(number), "push {number}");
    }
    line.upgrade();
    assert_eq!(line.push(To::Room("live://1"), b"later"), queued(1));
    assert_eq!(client.recv().body, b"later");
    line.metrics().assert_balanced();
}

/// A program that runs `before`, and then comet with `more` arguments.
fn limited(name: &str, before: &str, more: &str) -> String {
    let comet = env!("CARGO_BIN_EXE_comet");
    script(name, &format!("{before}\nexec {comet} \"$@\" {more}"))
}

#[test]
fn a_ceiling_below_what_is_handed_over_is_refused() {
    let (line, client, heap) =
        start(PUSHES, |line| line.metrics().value("comet_heap_allocated_bytes"));
    let with_ceiling =
        |name: &str, bytes: u64| limited(name, "", &format!("--set limits.memory={bytes}"));
    // Not even enough for a process without connections: known before the freeze.
    let tiny = with_ceiling("upgrade-tiny-ceiling", 1 << 20);
    line.fail(&["--binary", &tiny], "and limits.memory leaves it 1 MiB");
    let low = with_ceiling("upgrade-low-ceiling", heap + SLACK);
    line.fail(&["--binary", &low], "the new process would have ");
    assert_eq!(line.metrics().value("comet_upgrades_total{result=\"refused\"}"), 2);
    expect_goes_on(PUSHES, (line, client));
}

#[test]
fn an_allocation_that_fails_ends_the_new_process_alone() {
    // The peak differs by the 64 MiB in which threads reserve address space, from one start to the next.
    let (line, client, size_kib) = start(MANY_PUSHES, |line| {
        let status = fs::read_to_string(format!("/proc/{}/status", line.pid)).unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        size.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    });
    // Too little for a process without connections, and for the state of the one for which so much waits. Where it ends is
    // chance: it says so where it notices, and mostly an allocation fails that has to succeed. A library may hang.
    for limit_kib in [size_kib / 2, size_kib] {
        let before = format!("ulimit -c 0\nulimit -v {limit_kib}");
        let small = limited("upgrade-small", &before, "");
        let error = line.refused(&["--binary", &small]);
        let is_told = [
            "the new process refuses: ",
            "the new process ended: ",
            "the new process does not answer in time",
        ];
        assert!(is_told.iter().any(|told| error.contains(told)), "{limit_kib}: {error}");
    }
    expect_goes_on(MANY_PUSHES, (line, client));
}

/// A control group of memory, gone with the value.
struct Group(String);

impl Group {
    /// `None`: there are none, or this user may make none.
    fn new(name: &str, bytes: u64) -> Option<Self> {
        let [v1, v2] = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
        let (root, limit) = match Path::new(v1).is_dir() {
            true => (v1, "memory.limit_in_bytes"),
            false => (v2, "memory.max"),
        };
        let folder = format!("{root}/{name}-{}", std::process::id());
        let made = fs::create_dir(&folder);
        let made = made.and_then(|()| fs::write(format!("{folder}/{limit}"), bytes.to_string()));
        if let Err(error) = made {
            eprintln!("SKIPPED: no control group of memory ({error})");
            let _ = fs::remove_dir(&folder);
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_control_group_that_is_full_ends_the_new_process_alone() {
    let (line, client, resident) =
        start(PUSHES, |line| line.metrics().value("process_resident_memory_bytes"));
    let Some(group) = Group::new("comet-upgrade", resident + SLACK) else { return };
    let before = format!("echo $$ > {}/cgroup.procs || exit 7", group.0);
    // Its own ceiling would refuse what is left of the group.
    let small = limited("upgrade-group", &before, "--set 'limits.memory=\"100GiB\"'");
    line.fail(&["--binary", &small], "the new process ended: signal: 9");
    drop(group);
    expect_goes_on(PUSHES, (line, client));
}
