//! New processes with too little memory for the state. The former process continues, and its client loses nothing.

use std::fs;
use std::path::Path;

use comet_client::Transport;

use super::{Line, script, token};
use crate::peer::Peer;
use crate::support::{To, queued};

/// Pushes that wait for the client, and their size. With `MANY_PUSHES` a second copy of them exceeds the process's address space.
const PUSHES: u32 = 24;
const MANY_PUSHES: u32 = 96;
const BYTES: usize = 1 << 20;

/// More than the memory of a process without the pushes that wait.
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

/// A server, a client that reads nothing, and the result of `look` before any push waits.
fn start<T>(pushes: u32, look: impl FnOnce(&Line) -> T) -> (Line, Peer, T) {
    let line = Line::start(&[], &SETS);
    let client = line.server.live(Transport::Tcp, &token(1));
    let seen = look(&line);
    for number in 0..pushes {
        assert_eq!(line.push(To::Room("live://1"), &body(number)), queued(1));
    }
    (line, client, seen)
}

/// Checks that the client gets all waiting pushes and new ones, and that a later upgrade succeeds.
fn expect_continues(pushes: u32, (mut line, mut client): (Line, Peer)) {
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

/// A program that runs the commands `before`, and then comet with the arguments `more`.
fn limited(name: &str, before: &str, more: &str) -> String {
    let comet = env!("CARGO_BIN_EXE_comet");
    script(name, &format!("{before}\nexec {comet} \"$@\" {more}"))
}

#[test]
fn a_memory_limit_too_low_for_the_state_is_refused() {
    let (line, client, heap) =
        start(PUSHES, |line| line.metrics().value("comet_heap_allocated_bytes"));
    let with_ceiling =
        |name: &str, bytes: u64| limited(name, "", &format!("--set limits.memory={bytes}"));
    // Too low even for a process without connections, which is known before the freeze.
    let tiny = with_ceiling("upgrade-tiny-ceiling", 1 << 20);
    line.fail(&["--binary", &tiny], "and limits.memory leaves it 1 MiB");
    let low = with_ceiling("upgrade-low-ceiling", heap + SLACK);
    line.fail(&["--binary", &low], "the new process would have ");
    assert_eq!(line.metrics().value("comet_upgrades_total{result=\"refused\"}"), 2);
    expect_continues(PUSHES, (line, client));
}

#[test]
fn a_failed_allocation_ends_only_the_new_process() {
    // The size varies from one start to the next by the 64 MiB of address space that a thread reserves for its heap.
    let (line, client, size_kib) = start(MANY_PUSHES, |line| {
        let status = fs::read_to_string(format!("/proc/{}/status", line.pid)).unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        size.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    });
    // Too little for a process without connections, and too little for the state. Where the new process fails is chance: it may
    // report the lack of memory, an allocation may abort it, or a library may hang.
    for limit_kib in [size_kib / 2, size_kib] {
        let before = format!("ulimit -c 0\nulimit -v {limit_kib}");
        let small = limited("upgrade-small", &before, "");
        let error = line.refused(&["--binary", &small]);
        let expected = [
            "the new process refuses: ",
            "the new process ended: ",
            "the new process does not answer in time",
        ];
        assert!(
            expected.iter().any(|expected_error| error.contains(expected_error)),
            "{limit_kib}: {error}"
        );
    }
    expect_continues(MANY_PUSHES, (line, client));
}

/// A control group with a memory limit, which is removed with the value.
struct Group(String);

impl Group {
    /// `None`: control groups are not available, or this user may not create one.
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
fn a_full_control_group_ends_only_the_new_process() {
    let (line, client, resident) =
        start(PUSHES, |line| line.metrics().value("process_resident_memory_bytes"));
    let Some(group) = Group::new("comet-upgrade", resident + SLACK) else { return };
    let before = format!("echo $$ > {}/cgroup.procs || exit 7", group.0);
    // Without a higher limit of its own, the new process would refuse the memory that is left in the group.
    let small = limited("upgrade-group", &before, "--set 'limits.memory=\"100GiB\"'");
    line.fail(&["--binary", &small], "the new process ended: signal: 9");
    drop(group);
    expect_continues(PUSHES, (line, client));
}
