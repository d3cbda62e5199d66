//! Notes what the build is made of, for `/buildinfo`.

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::Command;

/// Hands the crate the environment variables that `build_info.rs` reads.
fn main() -> Result<(), Box<dyn Error>> {
    let unknown = || "unknown".to_owned();
    println!("cargo::rerun-if-env-changed=COMET_COMMIT");
    let commit = env::var("COMET_COMMIT").ok().or_else(commit).unwrap_or_else(unknown);
    let rustc = output_of(&env::var("RUSTC")?, &["--version"]).unwrap_or_else(unknown);
    let (profile, target) = (env::var("PROFILE")?, env::var("TARGET")?);
    let notes = [("COMMIT", commit), ("RUSTC", rustc), ("PROFILE", profile), ("TARGET", target)];
    for (name, text) in notes {
        println!("cargo::rustc-env=COMET_BUILD_{name}={text}");
    }
    Ok(())
}

/// The commit that is checked out, where the source is in git.
fn commit() -> Option<String> {
    // Written whenever HEAD moves, by a commit, too. Cargo takes a missing file for a changed one, and
    // would run this in every build.
    for name in ["HEAD", "logs/HEAD"] {
        let path = output_of("git", &["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    output_of("git", &["rev-parse", "HEAD"])
}

/// The output of a program, if it exists and succeeds.
fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
