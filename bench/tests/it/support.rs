//! Runs of the bench, and the comet that it starts.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;

/// Runs the bench to its end.
pub(crate) fn bench(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_comet-bench")).args(arguments).output();
    output.expect("the program can be run")
}

/// Where the result `name` goes.
pub(crate) fn result_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).with_extension("json")
}

pub(crate) fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("a result is written")).expect("it is JSON")
}

/// Runs a scenario against a comet of its own; gives its results.
#[track_caller]
pub(crate) fn measured(name: &str, arguments: &[&str]) -> Value {
    let file = result_file(name);
    let output = with_comet(&file, arguments);
    let [said, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{arguments:?}\n{said}{error}");
    let result = json(&file);
    assert_eq!(result["passed"], true, "{said}");
    result["results"].clone()
}

/// Runs a scenario against a comet of its own, however it ends.
pub(crate) fn with_comet(file: &Path, arguments: &[&str]) -> Output {
    let _turn = turn();
    let (server, file) = (comet().display().to_string(), file.display().to_string());
    // Rings take locked memory, of which there may be little; no test needs large ones.
    let small =
        ["--server-set", "limits.ring_entries=256", "--server-set", "limits.recv_buffers=64"];
    bench(&[arguments, &["--server", &server, "--json", &file], &small].concat())
}

/// One server at a time: they are pinned to the same CPU.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server beside the bench, where `cargo test --workspace` has built it before; built now where only the
/// bench is tested.
fn comet() -> &'static Path {
    static COMET: OnceLock<PathBuf> = OnceLock::new();
    COMET.get_or_init(|| {
        let beside = Path::new(env!("CARGO_BIN_EXE_comet-bench")).with_file_name("comet");
        if !beside.is_file() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--package", "comet", "--bin", "comet"]);
            if beside.parent().is_some_and(|folder| folder.ends_with("release")) {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo can be run").success(), "comet is not built");
        }
        assert!(beside.is_file(), "no comet at {}", beside.display());
        beside
    })
}
