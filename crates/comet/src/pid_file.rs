//! The file that holds the process's number while it runs.
//!
//! Numbers are used again, so the one in a file left behind says nothing. What says that its process
//! lives is a lock (flock(2)), which ends with the process, however that ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A pid file of this process; removed when dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Takes the file, before anything else is. What a process that is gone has left in it is removed.
    ///
    /// # Errors
    /// If a living process has it, or it cannot be opened, as a sentence.
    pub(crate) fn claim(path: &Path) -> Result<Self, String> {
        let failed =
            |error: io::Error| format!("server.pid_file: cannot write {}: {error}", path.display());
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(path);
            let mut file = file.map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => {
                    let mut number = String::new();
                    // Only for the sentence.
                    let _ = file.read_to_string(&mut number);
                    let owner = match number.trim() {
                        "" => "a process that is starting or ending".to_owned(),
                        number => format!("process {number}, which is running"),
                    };
                    return Err(format!("server.pid_file: {} belongs to {owner}", path.display()));
                }
            }
            // The one who had it may have removed it between the two.
            let is_there = fs::metadata(path).is_ok_and(|there| {
                file.metadata()
                    .is_ok_and(|mine| (mine.dev(), mine.ino()) == (there.dev(), there.ino()))
            });
            if is_there {
                file.set_len(0).map_err(failed)?;
                return Ok(Self { path: path.to_owned(), file });
            }
        }
    }

    /// Writes the number: the process is up.
    ///
    /// # Errors
    /// If it cannot be written, as a sentence.
    pub(crate) fn write(&self) -> Result<(), String> {
        writeln!(&self.file, "{}", std::process::id()).map_err(|error| {
            format!("server.pid_file: cannot write {}: {error}", self.path.display())
        })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("server.pid_file: cannot remove {}: {error}", self.path.display());
        }
    }
}
