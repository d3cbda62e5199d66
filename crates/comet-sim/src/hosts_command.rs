//! The commands about many hosts.

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use comet_sim::hosts::{self, HostsCosts, HostsSummary};

/// The numbers of hosts, of rooms of each host, and of hosts with members of a room.
const SIZES: [(usize, usize, usize); 7] = [
    (2, 10_000, 2),
    (10, 1_000, 2),
    (10, 10_000, 2),
    (10, 1_000, 10),
    (100, 100, 2),
    (100, 1_000, 2),
    (100, 100, 100),
];
/// The number of states that are made to measure the memory of one.
const COPIES: usize = 20;
const PAGE_BYTES: u64 = 4096;

/// Runs `seeds` seeds with `hosts` hosts each.
pub(crate) fn run(hosts: usize, start: u64, seeds: u64) -> io::Result<ExitCode> {
    writeln!(io::stdout(), "{seeds} seeds from {start}, {hosts} hosts")?;
    let mut sum = HostsSummary::default();
    for seed in (0..seeds).map(|index| start.wrapping_add(index)) {
        match hosts::run(seed, hosts) {
            Ok(summary) => sum += summary,
            Err(violation) => {
                writeln!(io::stderr(), "{violation}")?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    writeln!(io::stdout(), "{sum}")?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the costs of hosts and rooms.
pub(crate) fn print_costs() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "| hosts | rooms a host | hosts a room | subscriptions a host | KiB a host | messages to begin | messages a second, idle | a push to a room | a push by key |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|---|")?;
    // All are kept. Otherwise the allocator would reuse the memory of one for the next.
    let mut all = Vec::new();
    let mut kib = Vec::new();
    for size in SIZES {
        let before = resident_bytes()?;
        all.push(hosts::load(COPIES, size));
        kib.push(resident_bytes()?.saturating_sub(before) / COPIES as u64 / 1024);
    }
    drop(all);
    for ((hosts, rooms, hosts_a_room), kib) in SIZES.into_iter().zip(kib) {
        let HostsCosts {
            subscriptions,
            messages_to_begin,
            messages_a_second,
            messages_a_room_push,
            messages_a_key_push,
        } = HostsCosts::of(hosts, rooms, hosts_a_room).map_err(io::Error::other)?;
        writeln!(
            out,
            "| {hosts} | {rooms} | {hosts_a_room} | {subscriptions} | {kib} | {messages_to_begin} | {messages_a_second} | {messages_a_room_push} | {messages_a_key_push} |"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The resident memory of this process.
fn resident_bytes() -> io::Result<u64> {
    let pages = fs::read_to_string("/proc/self/statm")?;
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Ok(pages.unwrap_or_default() * PAGE_BYTES)
}
