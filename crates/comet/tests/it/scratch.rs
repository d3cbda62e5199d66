//! Files of one run of the tests. Two runs in the same target directory may overlap.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fs, process};

/// Folders of runs that began longer ago are removed.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes `to` an executable copy of `from`. Another process writes it: if a thread of this one started a child meanwhile, the
/// child would have the file open for writing, and the kernel would refuse to execute it.
pub(crate) fn install(from: &Path, to: &Path) {
    let status = Command::new("install").args(["-m", "755"]).args([from, to]).status().unwrap();
    assert!(status.success(), "{}: {status}", to.display());
}

/// The folder of this run.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let runs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runs");
        for run in fs::read_dir(&runs).into_iter().flatten().flatten() {
            let modified = run.metadata().and_then(|run| run.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok());
            if age.is_some_and(|age| age > KEPT) {
                // Another run may remove it at the same time.
                let _ = fs::remove_dir_all(run.path());
            }
        }
        let own = runs.join(process::id().to_string());
        // A folder of an earlier process with the same ID.
        let _ = fs::remove_dir_all(&own);
        fs::create_dir_all(&own).unwrap();
        own
    })
}
