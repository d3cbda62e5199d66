//! `comet-sim --seeds N [--start S]` runs N seeds from S, or from a random one. `comet-sim --seed X` replays one and
//! prints the last events. `comet-sim --hosts H --seeds N [--start S]` runs many hosts that push for each other, and
//! `comet-sim --hosts-costs` prints the costs of hosts and rooms. The exit code is 1 after a failure, 64 for a bad
//! argument.

mod hosts_command;

use std::io::{self, Write};
use std::process::ExitCode;

use comet_sim::Summary;

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--hosts-costs"] = words[..] {
        return hosts_command::print_costs();
    }
    let numbers: Result<Vec<u64>, _> =
        words.iter().skip(1).step_by(2).map(|number| number.parse()).collect();
    match (&words[..], numbers.as_deref()) {
        (["--seed", _], Ok([seed])) => replay(*seed),
        (["--seeds", _], Ok([seeds])) => run(rand::random(), *seeds),
        (["--seeds", _, "--start", _], Ok([seeds, start])) => run(*start, *seeds),
        (["--hosts", _, "--seeds", _], Ok([hosts @ 2..=1_024, seeds])) => {
            hosts_command::run(*hosts as usize, rand::random(), *seeds)
        }
        (["--hosts", _, "--seeds", _, "--start", _], Ok([hosts @ 2..=1_024, seeds, start])) => {
            hosts_command::run(*hosts as usize, *start, *seeds)
        }
        _ => {
            writeln!(
                io::stderr(),
                "usage: comet-sim [--hosts H] --seeds N [--start S] | --seed X | --hosts-costs"
            )?;
            Ok(ExitCode::from(64))
        }
    }
}

fn replay(seed: u64) -> io::Result<ExitCode> {
    match comet_sim::replay(seed) {
        Ok(summary) => {
            writeln!(io::stdout(), "seed {seed} holds\n{summary}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            writeln!(io::stderr(), "{failure}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run(start: u64, seeds: u64) -> io::Result<ExitCode> {
    writeln!(io::stdout(), "{seeds} seeds from {start}")?;
    let mut sum = Summary::default();
    for seed in (0..seeds).map(|index| start.wrapping_add(index)) {
        match comet_sim::run(seed) {
            Ok(summary) => sum += summary,
            Err(failure) => {
                writeln!(io::stderr(), "{failure}")?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    writeln!(io::stdout(), "{sum}")?;
    Ok(ExitCode::SUCCESS)
}
