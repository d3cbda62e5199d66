//! `comet-bench` measures a push server from the side of its clients and callers and, in the same invocation on the
//! same CPUs, the smallest cost that any server could have. See `bench/README.md`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for a terminal")]

mod accounting;
mod args;
mod clients;
mod clock;
mod comparison;
mod crowd;
mod deflate;
mod dial;
mod figures;
mod findings;
mod frames;
mod grpc;
mod guard;
mod heartbeats;
mod launch;
mod logic;
mod measurements;
mod message;
mod nats;
mod pauses;
mod pingpong;
mod plan;
mod process;
mod receiver;
mod recorder;
mod report;
mod sampler;
mod scenario;
mod scrape;
mod sender;
mod sink;
mod source;
mod stats;
mod subject;
mod succession;
mod target;
mod tls;
mod turn;
mod visitor;
mod yardstick;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::scenario::{
    books, churn, cluster, connect, day, fairness, fanout, idle, latency, overload, readers,
    resume, rooms, soak, targets, upgrade,
};

/// Errors are sentences for the person who runs the bench.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Exit code of a run that lost, doubled or reordered a delivery, and of one that failed.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("comet-bench: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Runs a command. True if its measurements passed.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Books(args) => books::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Connect(args) => connect::run(&args),
        Command::Fanout(args) => fanout::run(&args),
        Command::Resume(args) => resume::run(&args),
        Command::Rooms(args) => rooms::run(&args),
        Command::Latency(args) => latency::run(&args),
        Command::Idle(args) => idle::run(&args),
        Command::Churn(args) => churn::run(&args),
        Command::Readers(args) => readers::run(&args),
        Command::Day(args) => day::run(&args),
        Command::Overload(args) => overload::run(&args),
        Command::Fairness(args) => fairness::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Raw(args) => fanout::run_raw(&args),
        Command::Targets(args) => targets::run(&args),
        Command::Report(args) => comparison::run(&args).map(|()| true),
        Command::Guard => guard::guard().map(|()| true),
        Command::Worker => clients::work().map(|()| true),
        Command::Yardstick { mode, connections } => {
            yardstick::serve(mode, connections).map(|()| true)
        }
        Command::Launch { cpus, command } => launch::launch(&cpus, &command).map(|()| true),
    }
}
