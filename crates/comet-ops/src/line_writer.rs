//! Lines of a log, written by a separate thread. Other threads pass entries to it through a queue that is bounded in
//! number and bytes, and never wait, whatever the state of the sink. Entries that find the queue full, or that the sink
//! does not take, are counted; one line reports the number of missing entries as soon as the sink takes lines again.

mod sink;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

pub(crate) use self::sink::Sink;
pub use self::sink::check_append;

/// Most entries that wait for the thread.
const WAITING_MAX: usize = 8_192;

/// Most bytes of entries that wait for the thread of a log.
pub const LOG_BYTES_MAX: usize = 4 << 20;

/// Most entries written at once.
const BATCH_MAX: usize = 512;

/// How long a flush waits for the sink. Lines that it does not take in that time are lost.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the sink is tried while lines are missing and no new ones come.
const RETRY: Duration = Duration::from_secs(1);

/// Converts the entries of a log into lines. All methods run on the log's own thread.
pub(crate) trait Format: Send + 'static {
    /// The value that other threads pass.
    type Entry: Send + 'static;

    /// Bytes that an entry occupies while it waits.
    fn size(entry: &Self::Entry) -> usize;

    /// Called before the lines of a batch.
    fn begin(&mut self) {}

    /// Appends the line of an entry, with its line end.
    fn line(&mut self, entry: Self::Entry, lines: &mut Vec<u8>);

    /// Appends a line with the number of missing entries.
    fn missing(&mut self, entries: u64, lines: &mut Vec<u8>);

    /// Called at each change of the sink's state.
    fn changed(&mut self, change: Change<'_>);
}

/// A change of a sink's state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// It no longer takes lines.
    Failed(&'a io::Error),
    /// It takes lines again.
    Recovered,
    /// The file cannot be opened again, so the old one is still used.
    NotReopened(&'a io::Error),
}

/// Counts of entries, over all sinks one after the other.
#[derive(Default, Debug)]
pub struct LogCounts {
    written: AtomicU64,
    /// Entries that no sink took.
    missed: AtomicU64,
}

impl LogCounts {
    /// Number of lines written, and of entries that no sink took.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }
}

enum Handed<E> {
    Entry(E),
    /// Tells the thread to check the flags.
    Wake,
    /// Dropped when all earlier entries were offered to the sink.
    Flush {
        _done: Sender<()>,
    },
}

#[derive(Debug)]
struct Shared {
    counts: Arc<LogCounts>,
    /// Missed entries that no line reports yet.
    unreported: AtomicU64,
    waiting_bytes: AtomicUsize,
    reopen: AtomicBool,
}

impl Shared {
    fn miss(&self, entries: u64) {
        self.unreported.fetch_add(entries, Ordering::Relaxed);
        self.counts.missed.fetch_add(entries, Ordering::Relaxed);
    }
}

/// The handle of a log's thread. The thread ends when all handles are dropped.
#[derive(Debug)]
pub(crate) struct LineWriter<F: Format> {
    queue: Sender<Handed<F::Entry>>,
    shared: Arc<Shared>,
}

impl<F: Format> Clone for LineWriter<F> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<F: Format> LineWriter<F> {
    /// Starts the thread `name`. `counts` continue from their present values.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub(crate) fn start(
        name: &str,
        sink: Sink,
        format: F,
        counts: Arc<LogCounts>,
    ) -> io::Result<Self> {
        let (queue, waiting) = bounded(WAITING_MAX);
        let shared = Arc::new(Shared {
            counts,
            unreported: AtomicU64::new(0),
            waiting_bytes: AtomicUsize::new(0),
            reopen: AtomicBool::new(false),
        });
        let writer = Writer { sink, format, shared: Arc::clone(&shared), is_failing: false };
        thread::Builder::new().name(name.to_owned()).spawn(move || writer.run(&waiting))?;
        Ok(Self { queue, shared })
    }

    /// Passes an entry to the thread; counts it as missed if there is no space. Never waits.
    pub(crate) fn write(&self, entry: F::Entry) {
        let size = F::size(&entry);
        let before = self.shared.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let has_room = before + size <= LOG_BYTES_MAX;
        if !has_room || self.queue.try_send(Handed::Entry(entry)).is_err() {
            self.shared.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
            self.shared.miss(1);
        }
    }

    /// Opens the file again by its name, because the old one may have been moved away. Entries passed after this call
    /// are written to the new one. Never waits.
    pub(crate) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // If the queue is full, the thread checks the flag before its next batch anyway.
        let _ = self.queue.try_send(Handed::Wake);
    }

    /// Waits until all entries passed so far were offered to the sink, for at most a second. False: the time was too
    /// short.
    pub(crate) fn flush(&self) -> bool {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let (sender, done) = bounded(0);
        let is_queued = self.queue.send_deadline(Handed::Flush { _done: sender }, deadline);
        is_queued.is_ok() && done.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected)
    }
}

/// The state that the thread owns.
struct Writer<F> {
    sink: Sink,
    format: F,
    shared: Arc<Shared>,
    is_failing: bool,
}

impl<F: Format> Writer<F> {
    fn run(mut self, waiting: &Receiver<Handed<F::Entry>>) {
        loop {
            let first = match self.shared.unreported.load(Ordering::Relaxed) {
                0 => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                _ => waiting.recv_timeout(RETRY),
            };
            if matches!(first, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            let (mut lines, mut ends, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
            self.format.begin();
            for handed in first.into_iter().chain(waiting.try_iter().take(BATCH_MAX - 1)) {
                match handed {
                    Handed::Entry(entry) => {
                        self.shared.waiting_bytes.fetch_sub(F::size(&entry), Ordering::Relaxed);
                        self.format.line(entry, &mut lines);
                        ends.push(lines.len());
                    }
                    Handed::Wake => {}
                    flush @ Handed::Flush { .. } => flushes.push(flush),
                }
            }
            if self.shared.reopen.swap(false, Ordering::Acquire)
                && let Err(error) = self.sink.reopen()
            {
                self.format.changed(Change::NotReopened(&error));
            }
            self.write(lines, &ends);
        }
    }

    /// Writes the lines, which end at the offsets in `ends`.
    fn write(&mut self, mut lines: Vec<u8>, ends: &[usize]) {
        let unreported = self.shared.unreported.swap(0, Ordering::Relaxed);
        if unreported > 0 {
            self.format.missing(unreported, &mut lines);
        }
        let (taken, outcome) = self.sink.write(&lines);
        let written = ends.partition_point(|end| *end <= taken);
        self.shared.counts.written.fetch_add(written as u64, Ordering::Relaxed);
        if outcome.is_err() {
            // The line that reports them would have been the last, so it is missing.
            self.shared.unreported.fetch_add(unreported, Ordering::Relaxed);
            self.shared.miss((ends.len() - written) as u64);
        }
        match outcome {
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                self.format.changed(Change::Failed(&error));
            }
            Ok(()) if self.is_failing && !lines.is_empty() => {
                self.is_failing = false;
                self.format.changed(Change::Recovered);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::{BufRead, BufReader};

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use rustix::io::ioctl_fionread;
    use rustix::pipe::fcntl_setpipe_size;

    use super::*;

    const PIPE_BYTES: usize = 4_096;

    struct Numbers;

    impl Format for Numbers {
        type Entry = Vec<u8>;

        fn size(entry: &Vec<u8>) -> usize {
            entry.len()
        }

        fn line(&mut self, entry: Vec<u8>, lines: &mut Vec<u8>) {
            lines.extend_from_slice(&entry);
            lines.push(b'\n');
        }

        fn missing(&mut self, entries: u64, lines: &mut Vec<u8>) {
            lines.extend_from_slice(format!("missing {entries}\n").as_bytes());
        }

        fn changed(&mut self, _: Change<'_>) {}
    }

    /// Passes `entries` to a pipe without a reader, then reads it. Every entry is there, or counted as missing.
    fn check(name: &str, entries: u64, size: usize) {
        let path = std::env::temp_dir().join(format!("comet-{}-{name}", std::process::id()));
        // Left by an earlier process with this id, if it exists.
        let _ = fs::remove_file(&path);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        // A pipe opened for both directions does not wait for the other end.
        let pipe = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(fcntl_setpipe_size(&pipe, PIPE_BYTES).unwrap(), PIPE_BYTES);
        let counts = Arc::new(LogCounts::default());
        let sink = Sink::append(&path, 0o600).unwrap();
        let writer = LineWriter::start("test", sink, Numbers, Arc::clone(&counts)).unwrap();
        // The thread takes no more entries while it is blocked on the pipe.
        writer.write(vec![b'x'; PIPE_BYTES]);
        while ioctl_fionread(&pipe).unwrap() < PIPE_BYTES as u64 {
            thread::yield_now();
        }
        for _ in 1..entries {
            writer.write(vec![b'x'; size]);
        }
        assert!(!writer.flush(), "the pipe is full");
        let (mut written, mut missed) = (0, 0);
        let mut lines = BufReader::new(pipe).lines();
        while written + missed < entries {
            let line = lines.next().unwrap().unwrap();
            match line.strip_prefix("missing ") {
                Some(more) => missed += more.parse::<u64>().unwrap(),
                None => written += 1,
            }
        }
        assert!(missed > 0, "the queue is bounded");
        while !writer.flush() {}
        assert_eq!(counts.read(), (written, missed));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn lines_that_do_not_fit_are_counted_and_reported_later() {
        check("by-number", 3 * WAITING_MAX as u64, 20);
        check("by-bytes", 200, LOG_BYTES_MAX / 50);
    }
}
