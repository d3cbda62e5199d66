//! The four measurements.

pub(crate) mod connect;
pub(crate) mod fanout;
pub(crate) mod latency;
pub(crate) mod raw;

use crate::Result;
use crate::args::HostArgs;
use crate::clock::now_ns;

/// Pins the bench; children are started with CPUs of their own.
///
/// # Errors
///
/// The host has no such CPU.
fn pin(host: &HostArgs) -> Result<()> {
    let cpus = &host.bench_core;
    cpus.pin().map_err(|error| format!("cannot run on CPU {cpus}: {error}").into())
}

/// A number that tells the messages of one turn from those of any other.
fn run_id() -> u32 {
    // Low bits of the time in microseconds: turns are seconds apart.
    (now_ns() / 1000) as u32
}
