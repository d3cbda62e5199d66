//! The server's log: a pipe that is read line by line, except when reading is paused.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::Result;

/// The capacity of the pipe in bytes: small, so that it is soon full.
const PIPE: usize = 4096;
/// Lines that are kept for the report of a fault.
const KEPT: usize = 30;

/// Clones share the same log.
#[derive(Clone)]
pub(super) struct Log(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    is_held: bool,
    /// The last lines.
    last: VecDeque<String>,
    /// Lines of level ERROR since the last call of [`Log::take_errors`].
    errors: Vec<String>,
}

impl Log {
    /// A log, and the file that a server writes it to. Fails if the host refuses a pipe.
    pub(super) fn open() -> Result<(Self, File)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        fcntl_setpipe_size(&write, PIPE)?;
        let log = Self(Arc::default());
        let reader = log.clone();
        // The thread ends with the last writer.
        thread::spawn(move || reader.read(File::from(read)));
        Ok((log, write.into()))
    }

    /// Pauses reading until [`Log::resume`], so that the pipe fills.
    pub(super) fn hold(&self) {
        self.lock().is_held = true;
    }

    pub(super) fn resume(&self) {
        self.lock().is_held = false;
        self.0.1.notify_all();
    }

    /// Lines of level ERROR since the last call.
    pub(super) fn take_errors(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().errors)
    }

    /// The last lines.
    pub(super) fn last(&self) -> String {
        let state = self.lock();
        state.last.iter().map(|line| format!("\n    {line}")).collect()
    }

    fn read(&self, pipe: File) {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            let state = self.lock();
            let waited = self.0.1.wait_while(state, |state| state.is_held);
            let mut state = waited.expect("no holder panics");
            if is_error(&line) {
                state.errors.push(line.clone());
            }
            state.last.push_back(line);
            if state.last.len() > KEPT {
                state.last.pop_front();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.0.lock().expect("no holder panics")
    }
}

/// Whether a line is `[TIME ERROR ...`, or the message of a panic.
fn is_error(line: &str) -> bool {
    line.split(' ').nth(1) == Some("ERROR") || line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn errors_are_distinguished_from_lines_that_quote_one() {
        assert!(is_error("[2026-01-31T12:00:00.123Z ERROR comet_hub] no logic service"));
        assert!(is_error("thread 'comet-core-0' panicked at src/driver.rs:1:1:"));
        assert!(!is_error("[2026-01-31T12:00:00.123Z INFO  comet_net] key=\"ERROR\" closed"));
    }

    #[test]
    fn a_log_that_is_held_is_read_later() {
        let (log, mut pipe) = Log::open().unwrap();
        log.hold();
        pipe.write_all(b"[now ERROR x] y\n").unwrap();
        assert!(log.take_errors().is_empty());
        log.resume();
        while log.take_errors().is_empty() {
            thread::yield_now();
        }
        assert!(log.last().contains("[now ERROR x] y"));
    }
}
