//! Runs the corpus of the fuzz targets as ordinary tests.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/checks.rs"]
mod checks;

/// Runs `check` on every file of the target's corpus; a failure names the file.
fn run(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        println!("{}", file.display());
        check(&fs::read(&file).unwrap());
    }
}

#[test]
fn corpus_of_frame() {
    run("frame", checks::frame);
}

#[test]
fn corpus_of_websocket() {
    run("websocket", checks::websocket);
}

#[test]
fn corpus_of_upgrade() {
    run("upgrade", checks::upgrade);
}

#[test]
fn corpus_of_proxy() {
    run("proxy", checks::proxy);
}
