//! Compiles the contract of the push API: the bench is a caller like any other and shares no code with
//! the server. Of the services it needs only the least that can answer, as a yardstick. Also notes the
//! commit, for the results.

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let contract = "../crates/comet-control/proto";
    println!("cargo::rerun-if-changed={contract}");
    let descriptors = protox::compile(["goim/comet.proto", "comet/v1/push.proto"], [contract])?;
    tonic_prost_build::configure()
        .bytes(".goim.protocol.Proto.body")
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    note_commit();
    Ok(())
}

/// Hands the crate `COMET_BENCH_COMMIT`: what `COMET_COMMIT` or git says, `unknown` without either.
fn note_commit() {
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
