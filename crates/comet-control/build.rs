//! Compiles the `.proto` files without a protoc: messages, services, and the descriptors that gRPC
//! reflection serves. Also notes what the build is made of, for `/buildinfo`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use prost::Message;

const FILES: [&str; 3] = ["goim/comet.proto", "goim/logic.proto", "comet/v1/push.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // With it every client has a `connect` of its own; the one of goim.logic is a call.
        .build_transport(false)
        .bytes(".goim.protocol.Proto.body")
        .btree_map(".goim.comet.Ledger")
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    note_build()
}

/// Hands the crate the environment variables that `build_info.rs` reads.
fn note_build() -> Result<(), Box<dyn Error>> {
    let unknown = || "unknown".to_owned();
    println!("cargo::rerun-if-env-changed=COMET_COMMIT");
    let commit = env::var("COMET_COMMIT").ok().or_else(commit).unwrap_or_else(unknown);
    let rustc = said(&env::var("RUSTC")?, &["--version"]).unwrap_or_else(unknown);
    let (profile, target) = (env::var("PROFILE")?, env::var("TARGET")?);
    let notes = [("COMMIT", commit), ("RUSTC", rustc), ("PROFILE", profile), ("TARGET", target)];
    for (name, text) in notes {
        println!("cargo::rustc-env=COMET_BUILD_{name}={text}");
    }
    Ok(())
}

/// The commit that is checked out, where the source is in git.
fn commit() -> Option<String> {
    // Written whenever HEAD moves, by a commit, too. Cargo takes a file that is missing for changed,
    // and would run this in every build.
    for name in ["HEAD", "logs/HEAD"] {
        let path = said("git", &["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    said("git", &["rev-parse", "HEAD"])
}

/// What a program says, if it is there and succeeds.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
