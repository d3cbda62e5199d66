//! The file that holds the process id while the server runs.
//!
//! Ids are used again, so the one in a file that was left behind means nothing. A lock (flock(2)) shows that
//! the process lives: it ends with the process, however that ends.

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
    /// Takes the file before anything else is opened. What an ended process left in it is removed.
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
                    // Only for the message.
                    let _ = file.read_to_string(&mut number);
                    let owner = match number.trim() {
                        "" => "a process that is starting or ending".to_owned(),
                        number => format!("process {number}, which is running"),
                    };
                    return Err(format!("server.pid_file: {} belongs to {owner}", path.display()));
                }
            }
            // Its owner may have removed it between opening and locking.
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

    /// Writes the process id: the server is up.
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
