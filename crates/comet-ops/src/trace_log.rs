//! A trace log: events as lines of a file.

mod lines;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use self::lines::Lines;
pub use self::lines::TraceLine;
use crate::line_writer::{LineWriter, LogCounts, Sink};
use crate::log_format::LogFormat;

/// Only the owner and the group may read which users are traced.
const MODE: u32 = 0o640;

/// The handle of the file. Dropping it waits until queued events are written, for at most a second.
pub struct TraceLog<L: TraceLine> {
    path: PathBuf,
    writer: LineWriter<Lines<L>>,
}

impl<L: TraceLine> TraceLog<L> {
    /// Opens or creates the file, and starts the thread that writes it. `epoch` is the zero of the events' times;
    /// `counts` continue from their present values.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread cannot be made.
    pub fn open(
        path: PathBuf,
        format: LogFormat,
        epoch: Instant,
        counts: Arc<LogCounts>,
    ) -> io::Result<Self> {
        let sink = Sink::append(&path, MODE)?;
        let lines = Lines::new(path.clone(), format, epoch);
        let writer = LineWriter::start("comet-trace", sink, lines, counts)?;
        Ok(Self { path, writer })
    }

    /// The path by which the file was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Passes an event to the thread; counts it as missed if there is no space. Never waits.
    pub fn write(&self, event: impl Into<L>) {
        self.writer.write(event.into());
    }

    /// Opens the file again by its name, because it may have been moved away. Never waits.
    pub fn reopen(&self) {
        self.writer.reopen();
    }
}

impl<L: TraceLine> fmt::Debug for TraceLog<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLog").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<L: TraceLine> Drop for TraceLog<L> {
    fn drop(&mut self) {
        if !self.writer.flush() {
            log::warn!("white_list.file: {}: the last events are not written", self.path.display());
        }
    }
}
