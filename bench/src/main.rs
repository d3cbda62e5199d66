//! `comet-bench` measures a push server as its clients and callers see it, and next to it, in the same
//! invocation on the same CPUs, the least any server could do. See `bench/README.md`.

mod accounting;
mod args;
mod clock;
mod comparison;
mod cpu;
mod dial;
mod grpc;
mod launch;
mod measure;
mod message;
mod outlet;
mod process;
mod receiver;
mod report;
mod sampler;
mod scenario;
mod sender;
mod stats;
mod target;
mod tls;
mod yardstick;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::scenario::{connect, fanout, latency, raw};

/// Failures are for the person who runs it: sentences.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Exit code of a run that lost, doubled or reordered a delivery, and of one that could not be made.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let passed = match Cli::parse().command {
        Command::Connect(args) => connect::run(&args),
        Command::Fanout(args) => fanout::run(&args),
        Command::Latency(args) => latency::run(&args),
        Command::Raw(args) => raw::run(&args),
        Command::Report(args) => comparison::run(&args).map(|()| true),
        Command::Yardstick { mode, connections } => {
            yardstick::serve(mode, connections).map(|()| true)
        }
        Command::Launch { cpus, command } => launch::launch(&cpus, &command).map(|()| true),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("comet-bench: {error}");
            ExitCode::from(FAILED)
        }
    }
}
