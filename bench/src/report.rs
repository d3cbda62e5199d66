//! The results of a run: its tables on the terminal, and one JSON file for machines.

mod host;
mod json;
mod text;

use std::io::Write as _;
use std::{fs, io};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Result;
use crate::args::{HostArgs, ServerArgs};
use crate::figures;

pub(crate) use host::Program;
pub(crate) use text::{NOT_MEASURED, Table, cell_of, progress_bar};

/// Version of the file's form. It is raised when a figure that `comet-bench report` reads moves or changes its meaning;
/// an added figure does not raise it.
pub(crate) const SCHEMA: u64 = 3;

/// Prints tables and the faults of a run that has just ended, and writes everything about it to its file, including the
/// summaries over the rounds. True if the run passed: nothing went wrong that the server did not report itself. A
/// scenario that only measures yardsticks has no server.
pub(crate) fn finish(
    scenario: &'static str,
    config: &impl Serialize,
    (host, server): (&HostArgs, Option<&ServerArgs>),
    mut results: Value,
    tables: &str,
) -> Result<bool> {
    let faults = faults(&results);
    let (finished_unix_s, passed) = (Timestamp::now().as_second(), faults.is_empty());
    let taken: Vec<_> = figures::summarize(scenario, &results).collect();
    for (key, spread) in taken {
        results[key] = json!(spread);
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{tables}")?;
    let summaries: Vec<_> = figures::summaries(&results).collect();
    for (label, is) in &summaries {
        writeln!(out, "{label}: {}", cell_of(Some(*is)))?;
    }
    if !summaries.is_empty() {
        writeln!(out)?;
    }
    for fault in &faults {
        writeln!(out, "FAULT {fault}")?;
    }
    let report = json!({
        "schema": SCHEMA,
        "scenario": scenario,
        "finished_unix_s": finished_unix_s,
        "bench": Program::bench(),
        "server": server.and_then(Program::server),
        "host": host::machine(),
        "pinning": host::pinning(host, server),
        "config": config,
        "results": results,
        "passed": passed,
        "faults": faults,
    });
    let default = || format!("bench/results/{scenario}-{finished_unix_s}.json").into();
    let file = host.json.clone().unwrap_or_else(default);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let written = fs::write(&file, json::to_text(&report));
    written.map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    writeln!(out, "written to {}", file.display())?;
    Ok(passed)
}

/// The faults, as listed in the results themselves and in the measurements in their lists.
fn faults(results: &Value) -> Vec<String> {
    let members = results.as_object().into_iter().flat_map(|members| members.values());
    let measurements = members.filter_map(Value::as_array).flatten().chain([results]);
    let faults = measurements.filter_map(|is| is.get("faults")?.as_array()).flatten();
    faults.filter_map(|fault| fault.as_str().map(str::to_owned)).collect()
}
