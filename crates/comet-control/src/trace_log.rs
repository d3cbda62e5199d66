//! The trace log: what happens to connections of users on the white list, a line each.
//!
//! A thread of its own writes; the control thread hands it events through a bounded queue and never
//! waits. What finds the queue full, or cannot be written, is counted, and the file says how much is
//! missing as soon as it takes lines again.

mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};

use comet_core::TraceEvent;

use self::line::Lines;

/// Events that may wait for the thread.
const WAITING_MAX: usize = 8_192;

/// Events written in one go at most.
const BATCH_MAX: usize = 512;

/// Who is watched is nobody else's business.
const MODE: u32 = 0o640;

enum Entry {
    Event(Box<TraceEvent>),
    /// Look at the flags.
    Wake,
}

/// What became of events, in one file after the other.
#[derive(Default)]
pub(crate) struct Counts {
    /// All events no file has.
    missed: AtomicU64,
    written: AtomicU64,
}

impl Counts {
    /// Lines written, and events no file has.
    pub(crate) fn read(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
struct Shared {
    /// Events the file has not, and does not say so yet.
    untold: AtomicU64,
    counts: Arc<Counts>,
    reopen: AtomicBool,
}

impl Shared {
    fn miss(&self, events: u64) {
        self.untold.fetch_add(events, Ordering::Relaxed);
        self.counts.missed.fetch_add(events, Ordering::Relaxed);
    }
}

/// The way to the file. Dropped, it waits for what is under way to be written.
pub(crate) struct TraceLog {
    path: PathBuf,
    /// `None` once dropped.
    entries: Option<SyncSender<Entry>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl TraceLog {
    /// Opens the file, or makes it, and starts the thread. `epoch` is the zero of the events' times;
    /// `counts` go on from where they are.
    ///
    /// # Errors
    /// If the file cannot be opened or the thread not be made.
    pub(crate) fn open(path: PathBuf, epoch: Instant, counts: Arc<Counts>) -> io::Result<Self> {
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

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands an event over; counts it as missed where there is no room. Never waits.
    pub(crate) fn write(&self, event: Box<TraceEvent>) {
        if self.send(Entry::Event(event)).is_err() {
            self.shared.miss(1);
        }
    }

    /// Opens the file under its name again, for whoever has moved it away. Never waits.
    pub(crate) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // Full: the thread is awake and looks at the flag after this batch.
        let _ = self.send(Entry::Wake);
    }

    fn send(&self, entry: Entry) -> Result<(), TrySendError<Entry>> {
        self.entries.as_ref().expect("taken by drop alone").try_send(entry)
    }
}

impl Drop for TraceLog {
    fn drop(&mut self) {
        self.entries = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer has been printed; it has no more to say.
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
    /// The last write failed, and the log says so already.
    is_failing: bool,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Entry>) {
        while let Ok(first) = waiting.recv() {
            let rest = waiting.try_iter().take(BATCH_MAX - 1);
            // The wall clock may have been set since the last batch.
            let mut lines = Lines::new(SystemTime::now(), self.epoch.elapsed());
            let mut events = 0;
            for entry in [first].into_iter().chain(rest) {
                if let Entry::Event(event) = entry {
                    lines.event(&event);
                    events += 1;
                }
            }
            if self.shared.reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            }
            let untold = self.shared.untold.swap(0, Ordering::Relaxed);
            if untold > 0 {
                lines.missing(untold);
            }
            let outcome = self.file.write_all(lines.as_bytes());
            if outcome.is_ok() {
                self.shared.counts.written.fetch_add(events, Ordering::Relaxed);
            } else {
                self.shared.untold.fetch_add(untold, Ordering::Relaxed);
                self.shared.miss(events);
            }
            self.tell(outcome);
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
    fn tell(&mut self, outcome: io::Result<()>) {
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
