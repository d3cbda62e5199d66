//! The file that holds the process id while the server runs.
//!
//! Process ids are reused, so the number in a leftover file means nothing. A lock (flock(2)) shows that the process is
//! alive: the lock ends with the process, however that ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A living process that holds a pid file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    Process(u32),
    /// The file has no number: the process is starting or ending.
    Unknown,
}

impl Holder {
    /// Reads the number of the process that has locked `file`.
    fn read(mut file: &File) -> Self {
        let mut number = String::new();
        // An unreadable number counts as missing.
        let _ = file.read_to_string(&mut number);
        number.trim().parse().map_or(Self::Unknown, Self::Process)
    }

    /// Why this process does not start.
    pub(crate) fn refusal(self, path: &Path) -> String {
        let owner = match self {
            Self::Unknown => "a process that is starting or ending".to_owned(),
            Self::Process(number) => format!("process {number}, which is running"),
        };
        format!("server.pid_file: {} belongs to {owner}", path.display())
    }
}

/// The living process that holds the file at `path`. The file is not changed.
///
/// # Errors
/// If a start could not take the file for another reason, as a sentence.
pub(crate) fn holder(path: &Path) -> Result<Option<Holder>, String> {
    let failed = |error| cannot_write(path, &error);
    let file = match File::options().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return comet_ops::check_append(path).map(|()| None).map_err(failed);
        }
        file => file.map_err(failed)?,
    };
    match file.try_lock() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(Holder::read(&file))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("server.pid_file: cannot write {}: {error}", path.display())
}

/// A pid file of this process. Dropping it removes the file, unless another process holds it by then.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    file: File,
    is_ours: bool,
}

impl PidFile {
    /// Claims the file before anything else is opened. The number of a process that has ended is removed.
    ///
    /// # Errors
    /// If a living process has it, or it cannot be opened, as a sentence.
    pub(crate) fn claim(path: &Path) -> Result<Self, String> {
        let failed = |error| cannot_write(path, &error);
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(path);
            let file = file.map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => return Err(Holder::read(&file).refusal(path)),
            }
            // Its owner may have removed it between the open and the lock.
            let is_there = fs::metadata(path).is_ok_and(|there| {
                file.metadata()
                    .is_ok_and(|mine| (mine.dev(), mine.ino()) == (there.dev(), there.ino()))
            });
            if is_there {
                file.set_len(0).map_err(failed)?;
                return Ok(Self { path: path.to_owned(), file, is_ours: true });
            }
        }
    }

    /// The file that another process has claimed and handed over, with its lock. It belongs to that process until
    /// [`PidFile::write`].
    pub(crate) fn inherit(path: &Path, file: OwnedFd) -> Self {
        Self { path: path.to_owned(), file: file.into(), is_ours: false }
    }

    /// Writes the process id, when the server is up.
    ///
    /// # Errors
    /// If it cannot be written, as a sentence.
    pub(crate) fn write(&mut self) -> Result<(), String> {
        self.is_ours = true;
        self.write_number(std::process::id())
    }

    /// Writes the id of the process to which the file was handed. A reader may look it up as soon as this process has
    /// ended.
    ///
    /// # Errors
    /// If it cannot be written, as a sentence.
    pub(crate) fn leave(&mut self, id: u32) -> Result<(), String> {
        self.is_ours = false;
        self.write_number(id)
    }

    /// Removes the file, which no process needs any more.
    pub(crate) fn remove(mut self) {
        self.is_ours = true;
    }

    fn write_number(&self, id: u32) -> Result<(), String> {
        let line = format!("{id}\n");
        let written = self.file.write_all_at(line.as_bytes(), 0);
        // The number written by another process may be longer.
        let written = written.and_then(|()| self.file.set_len(line.len() as u64));
        written.map_err(|error| cannot_write(&self.path, &error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !self.is_ours {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("server.pid_file: cannot remove {}: {error}", self.path.display());
        }
    }
}
