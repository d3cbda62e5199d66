//! A trace log: events as lines of a file.
//!
//! A thread of its own writes; others hand it events through a bounded queue and never wait. Events that
//! find the queue full, or cannot be written, are counted, and a line says how many are missing as soon as
//! the file takes lines again.

mod lines;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use self::lines::Lines;

/// Events that may wait for the thread.
const WAITING_MAX: usize = 8_192;

/// Events written in one go at most.
const BATCH_MAX: usize = 512;

/// Only the owner and the group read who is traced.
const MODE: u32 = 0o640;

/// An event that becomes a line: [`Display`](fmt::Display) is its text, without a time and a line end. What
/// a client chose is quoted and escaped, so that a line stays a line.
pub trait TraceLine: fmt::Display + Send + 'static {
    /// When it happened, after the zero of the events' clock.
    fn at(&self) -> Duration;
}

enum Entry<L> {
    Event(L),
    /// Look at the flags.
    Wake,
}

/// What became of events, in one file after the other.
#[derive(Default, Debug)]
pub struct TraceCounts {
    /// All events that no file has.
    missed: AtomicU64,
    written: AtomicU64,
}

impl TraceCounts {
    /// Lines written, and events that no file has.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }
}

#[derive(Default, Debug)]
struct Shared {
    /// Events the file lacks without a line about them yet.
    unreported: AtomicU64,
    counts: Arc<TraceCounts>,
    reopen: AtomicBool,
}

impl Shared {
    fn miss(&self, events: u64) {
        self.unreported.fetch_add(events, Ordering::Relaxed);
        self.counts.missed.fetch_add(events, Ordering::Relaxed);
    }
}

/// The handle of the file. Dropped, it waits until queued events are written.
pub struct TraceLog<L> {
    path: PathBuf,
    /// `None` once dropped.
    entries: Option<SyncSender<Entry<L>>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl<L: TraceLine> TraceLog<L> {
    /// Opens the file, or makes it, and starts the thread. `epoch` is the zero of the events' times;
    /// `counts` go on from where they are.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread not be made.
    pub fn open(path: PathBuf, epoch: Instant, counts: Arc<TraceCounts>) -> io::Result<Self> {
        let shared = Arc::new(Shared { counts, ..Shared::default() });
        let file = open(&path)?;
        let writer = Writer {
            path: path.clone(),
            file,
            epoch,
            shared: Arc::clone(&shared),
            is_failing: false,
        };
        let (entries, waiting) = sync_channel(WAITING_MAX);
        let thread = thread::Builder::new()
            .name("comet-trace".to_owned())
            .spawn(move || writer.run(&waiting))?;
        Ok(Self { path, entries: Some(entries), shared, thread: Some(thread) })
    }

    /// The path that the file was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands an event over; counts it as missed where there is no room. Never waits.
    pub fn write(&self, event: impl Into<L>) {
        if self.send(Entry::Event(event.into())).is_err() {
            self.shared.miss(1);
        }
    }

    /// Opens the file under its name again, since it may have been moved away. Never waits.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // Full: the thread is awake and looks at the flag after this batch.
        let _ = self.send(Entry::Wake);
    }

    fn send(&self, entry: Entry<L>) -> Result<(), TrySendError<Entry<L>>> {
        self.entries.as_ref().expect("taken by drop alone").try_send(entry)
    }
}

impl<L> fmt::Debug for TraceLog<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLog").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<L> Drop for TraceLog<L> {
    fn drop(&mut self) {
        self.entries = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer has been printed already.
            let _ = thread.join();
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

struct Writer {
    path: PathBuf,
    file: File,
    epoch: Instant,
    shared: Arc<Shared>,
    /// The last write failed, which the log has already.
    is_failing: bool,
}

impl Writer {
    fn run<L: TraceLine>(mut self, waiting: &Receiver<Entry<L>>) {
        while let Ok(first) = waiting.recv() {
            let rest = waiting.try_iter().take(BATCH_MAX - 1);
            // The wall clock may have been set since the last batch.
            let mut lines = Lines::new(SystemTime::now(), self.epoch.elapsed());
            let mut events = 0;
            for entry in [first].into_iter().chain(rest) {
                if let Entry::Event(event) = entry {
                    lines.event(event.at(), event);
                    events += 1;
                }
            }
            if self.shared.reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            }
            let unreported = self.shared.unreported.swap(0, Ordering::Relaxed);
            if unreported > 0 {
                lines.missing(unreported);
            }
            let outcome = self.file.write_all(lines.as_bytes());
            if outcome.is_ok() {
                self.shared.counts.written.fetch_add(events, Ordering::Relaxed);
            } else {
                self.shared.unreported.fetch_add(unreported, Ordering::Relaxed);
                self.shared.miss(events);
            }
            self.report(outcome);
        }
    }

    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => self.file = file,
            Err(error) => log::error!(
                "white_list.file: {} cannot be opened again, the old file is written on: {error}",
                self.path.display()
            ),
        }
    }

    /// Logs a failure once, and its end.
    fn report(&mut self, outcome: io::Result<()>) {
        match outcome {
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                log::error!("white_list.file: {}: {error}", self.path.display());
            }
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                log::info!("white_list.file: {} takes lines again", self.path.display());
            }
            _ => {}
        }
    }
}
