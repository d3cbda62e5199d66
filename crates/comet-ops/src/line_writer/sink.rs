//! The sink of lines: standard error, or a file that is appended to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, OFlags, access, fcntl_getfl, fcntl_setfl};

/// Checks that the file can be opened for appending, or created, and does not change it.
///
/// # Errors
/// The error that opening it would give.
pub fn check_append(path: &Path) -> io::Result<()> {
    let opened = open(path, OpenOptions::new().append(true));
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let may_make = Access::WRITE_OK | Access::EXEC_OK;
            Ok(access(folder.unwrap_or(".".as_ref()), may_make)?)
        }
        opened => opened.map(drop),
    }
}

/// A file or standard error. A write may block.
#[derive(Debug)]
pub(crate) struct Sink {
    file: File,
    /// How to open the file again. `None`: standard error.
    named: Option<Named>,
    /// Whether the last written bytes end inside a line.
    is_torn: bool,
}

#[derive(Debug)]
struct Named {
    path: PathBuf,
    mode: u32,
}

impl Sink {
    /// Standard error, without the lock of [`io::stderr`]: a write that blocks here does not hold up other threads.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub(crate) fn stderr() -> io::Result<Self> {
        let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Ok(Self { file, named: None, is_torn: false })
    }

    /// Opens the file for appending, or creates it with `mode`.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub(crate) fn append(path: &Path, mode: u32) -> io::Result<Self> {
        let named = Named { path: path.to_owned(), mode };
        Ok(Self { file: named.open()?, named: Some(named), is_torn: false })
    }

    /// Opens the file again by its name.
    ///
    /// # Errors
    /// If that fails; then the old file stays.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        if let Some(named) = &self.named {
            self.file = named.open()?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Writes `lines`. Returns how many bytes the file took, and why not all of them.
    pub(crate) fn write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        if lines.is_empty() {
            return (0, Ok(()));
        }
        if self.is_torn {
            match self.write_all(b"\n") {
                (_, Ok(())) => self.is_torn = false,
                (_, Err(error)) => return (0, Err(error)),
            }
        }
        let (taken, outcome) = self.write_all(lines);
        self.is_torn = lines[..taken].last().is_some_and(|last| *last != b'\n');
        (taken, outcome)
    }

    fn write_all(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.file.write(&bytes[taken..]) {
                Ok(0) => return (taken, Err(io::ErrorKind::WriteZero.into())),
                Ok(more) => taken += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares this pipe or terminal has made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(error) = wait_until_writable(self.file.as_fd()) {
                        return (taken, Err(error));
                    }
                }
                Err(error) => return (taken, Err(error)),
            }
        }
        (taken, Ok(()))
    }
}

impl Named {
    fn open(&self) -> io::Result<File> {
        open(&self.path, OpenOptions::new().append(true).create(true).mode(self.mode))
    }
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Without this flag, opening a named pipe would wait for a reader.
    let file = options.custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

fn wait_until_writable(file: BorrowedFd<'_>) -> io::Result<()> {
    match poll(&mut [PollFd::new(&file, PollFlags::OUT)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use rustix::io::ioctl_fionread;
    use rustix::pipe::fcntl_setpipe_size;

    use super::*;

    fn named_pipe(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("comet-{}-{name}", std::process::id()));
        // Left by an earlier process with this id, if it exists.
        let _ = fs::remove_file(&path);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        path
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_no_wait() {
        let path = named_pipe("alone");
        Sink::append(&path, 0o600).unwrap_err();
        fs::remove_file(&path).unwrap();
    }

    /// As on a full disk that has space again later.
    #[test]
    fn a_line_that_was_cut_off_ends_before_the_next_one() {
        let path = named_pipe("torn");
        let reader = || {
            let flags = OFlags::NONBLOCK.bits() as i32;
            File::options().read(true).custom_flags(flags).open(&path).unwrap()
        };
        let first = reader();
        assert_eq!(fcntl_setpipe_size(&first, 4_096).unwrap(), 4_096);
        let mut sink = Sink::append(&path, 0o600).unwrap();
        let lines = [[b'a'; 99].as_slice(), b"\n"].concat().repeat(60);
        let (mut sink, taken) = thread::scope(|scope| {
            let writer = scope.spawn(move || {
                let (taken, outcome) = sink.write(&lines);
                assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
                (sink, taken)
            });
            while ioctl_fionread(&first).unwrap() < 4_096 {
                thread::yield_now();
            }
            drop(first);
            writer.join().unwrap()
        });
        assert_eq!(taken, 4_096);
        let mut second = reader();
        second.read_exact(&mut [0; 4_096]).unwrap();
        for (line, read) in [("next\n", "\nnext\n"), ("last\n", "last\n")] {
            let (taken, outcome) = sink.write(line.as_bytes());
            outcome.unwrap();
            assert_eq!(taken, line.len());
            let mut bytes = vec![0; read.len()];
            second.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, read.as_bytes());
        }
        fs::remove_file(&path).unwrap();
    }
}
