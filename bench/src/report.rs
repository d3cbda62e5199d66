//! What a run leaves behind: its tables on the terminal, and one JSON file for machines.

mod host;
mod json;
mod text;

use std::io::Write as _;
use std::path::PathBuf;
use std::{fs, io};

use serde::Serialize;

use crate::Result;
use crate::args::{HostArgs, Setting};
use crate::clock::unix_time_s;

pub(crate) use host::Program;
use host::{Host, Pinning};
pub(crate) use text::{
    NOT_MEASURED, Table, cell_of, number, progress_bar, round_of, spread, summary, table,
};

/// Form of the file. It goes up when a figure that `comet-bench report` reads moves or changes its meaning;
/// an added figure changes nothing.
pub(crate) const SCHEMA: u64 = 3;

/// Everything about a run, as it is written to the file.
#[derive(Serialize)]
pub(crate) struct Report<'a, C: Setting, R: Serialize> {
    pub schema: u64,
    pub scenario: &'static str,
    pub finished_unix_s: u64,
    pub bench: Program,
    /// None for a scenario without a server, and for a server that ran already.
    pub server: Option<Program>,
    pub host: Host,
    pub pinning: Pinning,
    pub config: &'a C,
    pub results: R,
    /// Nothing went wrong that the server did not report itself.
    pub passed: bool,
    pub faults: Vec<String>,
}

impl<'a, C: Setting, R: Serialize> Report<'a, C, R> {
    /// The report of a run that has just ended.
    pub(crate) fn new(
        scenario: &'static str,
        config: &'a C,
        results: R,
        faults: Vec<String>,
    ) -> Self {
        let server = config.server();
        Self {
            schema: SCHEMA,
            scenario,
            finished_unix_s: unix_time_s(),
            bench: Program::bench(),
            server: server.as_ref().and_then(Program::server),
            host: Host::here(),
            pinning: Pinning::of(config.host(), server.as_ref()),
            config,
            results,
            passed: faults.is_empty(),
            faults,
        }
    }

    /// Prints `text` and the faults, and writes the file. True if the run passed.
    pub(crate) fn finish(&self, text: &str, host: &HostArgs) -> Result<bool> {
        let file = host.json.clone().unwrap_or_else(|| self.default_file());
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        for fault in &self.faults {
            writeln!(out, "FAULT {fault}")?;
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let written = fs::write(&file, json::to_text(self)?);
        written.map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        writeln!(out, "written to {}", file.display())?;
        Ok(self.passed)
    }

    fn default_file(&self) -> PathBuf {
        format!("bench/results/{}-{}.json", self.scenario, self.finished_unix_s).into()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn a_report_is_an_object_with_its_parts() {
        let cli = Cli::parse_from(["comet-bench", "raw", "--server-core", "0,1"]);
        let Command::Raw(args) = cli.command else { panic!("it is raw") };
        let report = Report::new("raw", &args, "results", vec!["a fault".to_owned()]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["scenario"], "raw");
        assert_eq!(json["config"]["load"]["batch"], 1);
        assert_eq!(json["passed"], false);
        assert_eq!(json["pinning"]["yardsticks"], "0,1");
        assert!(json["pinning"]["server"].is_null(), "raw has no server");
        assert!(json["server"].is_null());
        assert!(!json["bench"]["commit"].as_str().unwrap().is_empty());
    }

    #[test]
    fn a_server_that_runs_already_tells_only_what_the_kernel_knows() {
        let pid = std::process::id().to_string();
        let address = ["--addr", "127.0.0.1:1", "--pid", &pid];
        let cli = Cli::parse_from([&["comet-bench", "connect"][..], &address].concat());
        let Command::Connect(args) = cli.command else { panic!("it is connect") };
        let json = serde_json::to_value(Report::new("connect", &args, (), Vec::new())).unwrap();
        assert!(json["server"].is_null());
        assert!(json["pinning"]["control"].is_null());
        assert!(json["pinning"]["server"].is_string(), "of this process: {}", json["pinning"]);
    }
}
