//! What a run leaves behind: its tables on the terminal, and one JSON file for machines.

mod host;
mod json;
mod text;

use std::io::Write as _;
use std::{fs, io};

use serde::Serialize;
use serde_json::Value;

use crate::Result;
use crate::args::{HostArgs, ServerArgs};
use crate::clock::unix_time_s;

pub(crate) use host::Program;
use host::{Host, Pinning};
pub(crate) use text::{NOT_MEASURED, Table, cell_of, number, progress_bar, round_of, summary};

/// Form of the file. It goes up when a figure that `comet-bench report` reads moves or changes its meaning;
/// an added figure changes nothing.
pub(crate) const SCHEMA: u64 = 3;

/// Everything about a run, as it is written to the file.
#[derive(Serialize)]
struct Report<'a, C: Serialize> {
    schema: u64,
    scenario: &'static str,
    finished_unix_s: u64,
    bench: Program,
    /// None for a scenario without a server, and for a server that ran already.
    server: Option<Program>,
    host: Host,
    pinning: Pinning,
    config: &'a C,
    results: Value,
    /// Nothing went wrong that the server did not report itself.
    passed: bool,
    faults: Vec<String>,
}

/// Prints `text` and the faults of a run that has just ended, and writes its file. True if the run passed. A
/// scenario that measures yardsticks alone has no server.
pub(crate) fn finish(
    scenario: &'static str,
    config: &impl Serialize,
    (host, server): (&HostArgs, Option<&ServerArgs>),
    (results, faults): (Value, Vec<String>),
    text: &str,
) -> Result<bool> {
    let report = Report {
        schema: SCHEMA,
        scenario,
        finished_unix_s: unix_time_s(),
        bench: Program::bench(),
        server: server.and_then(Program::server),
        host: Host::here(),
        pinning: Pinning::of(host, server),
        config,
        results,
        passed: faults.is_empty(),
        faults,
    };
    let default = || format!("bench/results/{scenario}-{}.json", report.finished_unix_s).into();
    let file = host.json.clone().unwrap_or_else(default);
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    for fault in &report.faults {
        writeln!(out, "FAULT {fault}")?;
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let written = fs::write(&file, json::to_text(&report)?);
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    writeln!(out, "written to {}", file.display())?;
    Ok(report.passed)
}
