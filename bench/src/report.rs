//! What a run says: progress while it goes on, tables for people, one JSON file for machines.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::{fs, io};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::system::uname;
use serde::Serialize;

use crate::Result;
use crate::args::HostArgs;
use crate::clock::unix_time_s;
use crate::stats::Spread;

/// How often a progress bar is drawn, in a second.
const DRAWN_HZ: u8 = 4;

/// Everything about a run, as it is written to the file.
#[derive(Serialize)]
pub(crate) struct Report<C: Serialize, R: Serialize> {
    pub scenario: &'static str,
    pub started_unix_s: u64,
    pub bench_version: &'static str,
    pub host: Host,
    pub config: C,
    pub results: R,
    /// Nothing went wrong that the server did not own to.
    pub passed: bool,
    pub faults: Vec<String>,
}

/// The machine.
#[derive(Serialize)]
pub(crate) struct Host {
    pub name: String,
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
}

impl<C: Serialize, R: Serialize> Report<C, R> {
    /// A report that begins now.
    pub(crate) fn new(scenario: &'static str, config: C, results: R, faults: Vec<String>) -> Self {
        Self {
            scenario,
            started_unix_s: unix_time_s(),
            bench_version: env!("CARGO_PKG_VERSION"),
            host: Host::here(),
            config,
            results,
            passed: faults.is_empty(),
            faults,
        }
    }

    /// Prints `text` and the faults, writes the file; says whether the run passed.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
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
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        let written = fs::write(&file, json);
        written.map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        writeln!(out, "written to {}", file.display())?;
        Ok(self.passed)
    }

    fn default_file(&self) -> PathBuf {
        format!("bench/results/{}-{}.json", self.scenario, self.started_unix_s).into()
    }
}

impl Host {
    fn here() -> Self {
        let system = uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        Self {
            name: system.nodename().to_string_lossy().into_owned(),
            kernel: system.release().to_string_lossy().into_owned(),
            cpu: model.unwrap_or("unknown").trim_start_matches([' ', '\t', ':']).to_owned(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        }
    }
}

/// A bar on the terminal, to an end that may not be known; nothing where standard error is none.
pub(crate) fn progress_bar(length: Option<u64>, label: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:24} {wide_bar} {human_pos}/{human_len} {eta}");
    // Drawn seldom, for it is the receivers' thread that draws.
    ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(DRAWN_HZ))
        .with_style(style.expect("the template is well-formed"))
        .with_message(label.to_owned())
}

/// Columns of text under headings; all but the first aligned to the right.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    for row in std::iter::once(&headings).chain(rows) {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let padding = width - cell.len();
            let (before, after) = if column == 0 { (0, padding) } else { (padding + 2, 0) };
            write!(text, "{:before$}{cell}{:after$}", "", "").expect("a String takes all");
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// A number with so many decimals, or a dash.
pub(crate) fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// A figure over the rounds: its median, and its extremes.
pub(crate) fn spread(value: Option<Spread>, decimals: usize) -> String {
    value.map_or_else(
        || "-".to_owned(),
        |is| format!("{:.decimals$} ({:.decimals$} to {:.decimals$})", is.median, is.min, is.max),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&["what", "ns"], &[row(["ring", "12345"]), row(["a longer one", "7"])]);
        let expected = "what             ns\n\
                        ring          12345\n\
                        a longer one      7\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn figures_say_their_spread() {
        let is = Spread { median: 1.254, min: 1.0, max: 2.0 };
        assert_eq!(spread(Some(is), 2), "1.25 (1.00 to 2.00)");
        assert_eq!(spread(None, 2), "-");
        assert_eq!(number(Some(2.5), 0), "2");
        assert_eq!(number(None, 1), "-");
    }

    #[test]
    fn a_report_is_an_object_with_its_parts() {
        let report = Report::new("raw", [1], "results", vec!["a fault".to_owned()]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["scenario"], "raw");
        assert_eq!(json["config"][0], 1);
        assert_eq!(json["passed"], false);
        assert!(json["host"]["cpus"].as_u64().unwrap() > 0);
    }
}
