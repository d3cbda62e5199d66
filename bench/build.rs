//! Notes the commit, for the results.

use std::env;
use std::path::Path;
use std::process::Command;

/// Hands the crate `COMET_BENCH_COMMIT`: what `COMET_COMMIT` or git says, `unknown` without either.
fn main() {
    println!("cargo::rerun-if-env-changed=COMET_COMMIT");
    // A change that is not committed is said, too.
    println!("cargo::rerun-if-changed=src");
    let commit = env::var("COMET_COMMIT").ok().or_else(commit);
    println!("cargo::rustc-env=COMET_BENCH_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// The commit that is checked out, where the source is in git.
fn commit() -> Option<String> {
    // Written whenever HEAD moves. Cargo takes a file that is missing for changed, and would run this in
    // every build.
    for name in ["HEAD", "logs/HEAD"] {
        let path = said_by_git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    said_by_git(&["describe", "--always", "--dirty", "--abbrev=12"])
}

/// What git says, if it is there and this is a checkout.
fn said_by_git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
