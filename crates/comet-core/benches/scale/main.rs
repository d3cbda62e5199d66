//! What grows with the number of shards: a million connections in one process, on 1 to 64 shards, without a
//! kernel under them. One thread does the work of all shards, so each figure is the sum of what all cores would spend.
//!
//!     make scale
//!
//! Each line is a process of its own, so that its memory is its own.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(clippy::print_stdout, reason = "it prints a table")]

#[path = "../shard/rig.rs"]
mod rig;

use std::env;
use std::process::{Command, exit};
use std::sync::Arc;
use std::time::Instant;

use rig::{Rig, limits, push, room};

const CONNECTIONS: usize = 1_000_000;

/// Members of a room.
const SIZES: [usize; 3] = [10, 1_000, CONNECTIONS];

const SHARDS: [u16; 4] = [1, 4, 16, 64];

/// Deliveries of the pushes that are timed, about.
const DELIVERIES: usize = 2_000_000;

/// Connections that change their room.
const CHANGES: usize = 100_000;

fn main() {
    let given: Vec<usize> =
        env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    match given[..] {
        [shards, size] => measure(shards as u16, size),
        _ => all(),
    }
}

fn all() {
    println!("{CONNECTIONS} connections; us are of all shards together");
    println!(
        "shards  members  bytes a connection  connect us  join us  push us  a delivery us  broadcast ms"
    );
    for size in SIZES {
        for shards in SHARDS {
            let program = env::current_exe().expect("this program has a path");
            let arguments = [shards.to_string(), size.to_string()];
            let status = Command::new(program).args(arguments).status().expect("it starts");
            if !status.success() {
                exit(1);
            }
        }
    }
}

/// Prints a line of the table.
fn measure(shards: u16, size: usize) {
    let rooms = CONNECTIONS / size;
    let bytes_before = resident_bytes();
    let mut rig = Rig::with_limits(shards, limits());
    // Members come to any core, as the kernel's hash of their addresses decides.
    let shard_of = |number: usize| scatter(number) % usize::from(shards);
    let (connected_us, ()) = timed(|| {
        for _ in 0..100 {
            rig.connect_at(CONNECTIONS / 100, |number| (shard_of(number), number % rooms));
        }
    });
    let bytes = (resident_bytes() - bytes_before) / CONNECTIONS;

    let push = push(128);
    let names: Vec<Arc<str>> = (0..rooms).map(|number| room(number).into()).collect();
    let pushes = (DELIVERIES / size).max(1);
    let (pushed_us, queued) = timed(|| {
        let mut queued = 0;
        for number in 0..pushes {
            queued += rig.push_room(&names[scatter(number) % rooms], &push);
            rig.send_all();
        }
        queued
    });
    assert_eq!(queued, (pushes * size) as u64);

    let (broadcast_us, queued) = timed(|| {
        let queued = rig.broadcast(&push);
        rig.send_all();
        queued
    });
    assert_eq!(queued, CONNECTIONS as u64);

    let (joined_us, ()) = timed(|| rig.change_rooms(CHANGES, |number| (number + 1) % rooms));
    println!(
        "{shards:6}  {size:7}  {bytes:18}  {:10.2}  {:7.2}  {:7.2}  {:13.3}  {:12.0}",
        connected_us / CONNECTIONS as f64,
        joined_us / CHANGES as f64,
        pushed_us / pushes as f64,
        pushed_us / queued_in(pushes, size),
        broadcast_us / 1_000.0,
    );
}

fn queued_in(pushes: usize, size: usize) -> f64 {
    (pushes * size) as f64
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begin = Instant::now();
    let result = work();
    (begin.elapsed().as_secs_f64() * 1e6, result)
}

/// A number without order, the same in each run (splitmix64).
fn scatter(number: usize) -> usize {
    let mut z = (number as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 1) as usize
}

/// `VmRSS`.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has a VmRSS");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok());
    kib.expect("it is a number") * 1_024
}
