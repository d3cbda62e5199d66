//! Runs of the bench, and the comet that it starts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::{env, fs};

use serde_json::Value;

/// Runs the bench to its end. The arguments are the words of `line`, and then `more`.
pub(crate) fn bench(line: &str, more: &[&str]) -> Output {
    bench_in(Path::new("."), line, more)
}

/// The same in a folder.
pub(crate) fn bench_in(folder: &Path, line: &str, more: &[&str]) -> Output {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_comet-bench"));
    bench.args(line.split_whitespace()).args(more).current_dir(folder);
    bench.output().expect("the program can be run")
}

/// A folder of one test, empty.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("folders").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder of the build");
    folder
}

pub(crate) fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

/// The file of the result `name`.
pub(crate) fn result_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).with_extension("json")
}

pub(crate) fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).expect("a result is written")).expect("it is JSON")
}

/// Runs a scenario against a comet of its own; gives its results.
#[track_caller]
pub(crate) fn measured(name: &str, line: &str) -> Value {
    let _turn = turn();
    // Rings take locked memory, which may be scarce; no test needs large rings.
    let line =
        format!("{line} --server-set limits.ring_entries=256 --server-set limits.recv_buffers=64");
    passed(name, &line, &["--server", &comet().display().to_string()])["results"].clone()
}

/// Runs a scenario; gives its result `name`.
#[track_caller]
pub(crate) fn passed(name: &str, line: &str, more: &[&str]) -> Value {
    let file = result_file(name);
    let output = bench(line, &[more, &["--json", &file.display().to_string()]].concat());
    let [said, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{line}\n{said}{error}");
    let result = json(&file);
    assert_eq!(result["passed"], true, "{said}");
    result
}

/// Checks the time series of one measurement in the result `name`: it is complete, exactly the counts in `moving`
/// change, and a report of the result draws `plots` of it.
#[track_caller]
pub(crate) fn check_series(name: &str, measurement: &Value, moving: &[&str], plots: &[&str]) {
    let series = &measurement["series"];
    let at_us = column(series, "at_us");
    assert!(at_us.len() >= 3 && at_us[0] == 0 && at_us.is_sorted(), "{series}");
    for name in ["received", "heartbeats", "connections", "cpu_us", "rss_bytes"] {
        assert_eq!(column(series, name).len(), at_us.len(), "{name}: {series}");
    }
    for name in ["received", "heartbeats", "cpu_us"] {
        let counts = column(series, name);
        assert!(counts[0] == 0 && counts.is_sorted(), "{name}: {series}");
    }
    for name in ["received", "heartbeats", "connections"] {
        let counts = column(series, name);
        let moves = counts.iter().any(|count| *count != counts[0]);
        assert_eq!(moves, moving.contains(&name), "{name}: {series}");
    }
    assert!(column(series, "rss_bytes").iter().all(|bytes| *bytes > 0), "{series}");

    let file = result_file(name);
    let folder = file.with_extension("report");
    let [path, out] = [&file, &folder].map(|path| path.to_str().expect("a path of the build"));
    let output = bench("report", &[path, "--out", out]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = fs::read_to_string(folder.join("report.html")).expect("a page");
    let scenario = json(&file)["scenario"].as_str().expect("a name").to_owned();
    for plot in plots {
        let file = folder.join(format!("{scenario}-{plot}.svg"));
        let svg = fs::read_to_string(&file).unwrap_or_else(|_| panic!("{}", file.display()));
        let subject = measurement["subject"].as_str().expect("a name");
        let is_drawn = svg.lines().any(|text| text == subject);
        assert!(is_drawn && page.contains(&svg), "{plot}: {svg}");
    }
}

/// The last value of a column of a measurement's time series.
#[track_caller]
pub(crate) fn last(measurement: &Value, name: &str) -> u64 {
    *column(&measurement["series"], name).last().expect("a sample")
}

fn column(series: &Value, name: &str) -> Vec<u64> {
    let values = series[name].as_array().unwrap_or_else(|| panic!("no {name}: {series}"));
    values.iter().map(|value| value.as_u64().expect("a count")).collect()
}

/// One server at a time: they are pinned to the same CPU.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server beside the bench, built from the present code: a run of the bench's tests alone does not build it.
fn comet() -> &'static Path {
    static COMET: OnceLock<PathBuf> = OnceLock::new();
    COMET.get_or_init(|| {
        let beside = Path::new(env!("CARGO_BIN_EXE_comet-bench")).with_file_name("comet");
        let mut build = Command::new(env!("CARGO"));
        // The same arguments as for the tests of all crates, so that both share their builds.
        build.args(["build", "--workspace", "--bin", "comet"]);
        if beside.parent().is_some_and(|folder| folder.ends_with("release")) {
            build.arg("--release");
        }
        // Cargo sets variables of the package for a test, and some build scripts run again if these change.
        for (name, _) in env::vars_os() {
            let is_of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"]
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix));
            if is_of_package {
                build.env_remove(name);
            }
        }
        assert!(build.status().expect("cargo can be run").success(), "comet is not built");
        assert!(beside.is_file(), "no comet at {}", beside.display());
        beside
    })
}
