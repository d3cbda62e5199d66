//! Runs the corpus of a fuzz target as an ordinary test.

use std::fs;
use std::path::Path;

#[allow(clippy::print_stdout, reason = "the harness shows it if the check fails")]
/// Runs `check` on every file of the target's corpus; a failure names the file.
pub(crate) fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        println!("{}", file.display());
        check(&fs::read(&file).unwrap());
    }
}
