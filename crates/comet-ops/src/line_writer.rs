//! Lines of a log, written by a thread of their own. Other threads hand entries over through a queue that is
//! bounded in number and bytes, and never wait, whatever becomes of the sink. Entries that find the queue full,
//! or that the sink does not take, are counted; one line says how many are missing as soon as the sink takes
//! lines again.

mod sink;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

pub(crate) use self::sink::Sink;
pub use self::sink::check_append;

/// Entries that may wait for the thread.
const WAITING_MAX: usize = 8_192;

/// Bytes of entries that may wait for the thread of a log.
pub const LOG_BYTES_MAX: usize = 4 << 20;

/// Entries written in one go at most.
const BATCH_MAX: usize = 512;

/// How long a flush waits for the sink. Lines that it does not take by then are lost.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// While lines are missing and no others come, the sink is tried this often.
const RETRY: Duration = Duration::from_secs(1);

/// How the entries of a log become lines. All of it runs on the log's own thread.
pub(crate) trait Format: Send + 'static {
    /// What other threads hand over.
    type Entry: Send + 'static;

    /// Bytes that an entry occupies while it waits.
    fn size(entry: &Self::Entry) -> usize;

    /// Called before the lines of a batch.
    fn begin(&mut self) {}

    /// Appends the line of an entry, with its line end.
    fn line(&mut self, entry: Self::Entry, lines: &mut Vec<u8>);

    /// Appends a line with the number of entries that are missing.
    fn missing(&mut self, entries: u64, lines: &mut Vec<u8>);

    /// Told each change of the sink's state.
    fn changed(&mut self, change: Change<'_>);
}

/// A change of a sink's state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// It takes no lines any more.
    Failed(&'a io::Error),
    /// It takes lines again.
    Recovered,
    /// The file cannot be opened again; the old one is written on.
    NotReopened(&'a io::Error),
}

/// What became of entries, in one sink after the other.
#[derive(Default, Debug)]
pub struct LogCounts {
    written: AtomicU64,
    /// All entries that no sink has.
    missed: AtomicU64,
}

impl LogCounts {
    /// Lines written, and entries that no sink has.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }
}

enum Handed<E> {
    Entry(E),
    /// Look at the flags.
    Wake,
    /// Dropped when everything before it was offered to the sink.
    Flush {
        _done: Sender<()>,
    },
}

#[derive(Debug)]
struct Shared {
    counts: Arc<LogCounts>,
    /// Missed entries without a line about them yet.
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
    /// Starts the thread, `name`. `counts` go on from where they are.
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

    /// Hands an entry over; counts it as missed where there is no room. Never waits.
    pub(crate) fn write(&self, entry: F::Entry) {
        let size = F::size(&entry);
        let before = self.shared.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let has_room = before + size <= LOG_BYTES_MAX;
        if !has_room || self.queue.try_send(Handed::Entry(entry)).is_err() {
            self.shared.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
            self.shared.miss(1);
        }
    }

    /// Opens the file under its name again, since it may have been moved away. Entries handed over from now
    /// on are in the new one. Never waits.
    pub(crate) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // Full: the thread looks at the flag before its next batch anyway.
        let _ = self.queue.try_send(Handed::Wake);
    }

    /// Waits until the sink was offered everything handed over so far, for a second at most. False: it was not
    /// in that time.
    pub(crate) fn flush(&self) -> bool {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let (sender, done) = bounded(0);
        let is_queued = self.queue.send_deadline(Handed::Flush { _done: sender }, deadline);
        is_queued.is_ok() && done.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected)
    }
}

/// What the thread owns.
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

    /// Writes lines that end at `ends`.
    fn write(&mut self, mut lines: Vec<u8>, ends: &[usize]) {
        let unreported = self.shared.unreported.swap(0, Ordering::Relaxed);
        if unreported > 0 {
            self.format.missing(unreported, &mut lines);
        }
        let (taken, outcome) = self.sink.write(&lines);
        let written = ends.partition_point(|end| *end <= taken);
        self.shared.counts.written.fetch_add(written as u64, Ordering::Relaxed);
        if outcome.is_err() {
            // The line about them would have been the last.
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

    /// Hands `entries` to a pipe that nobody reads, then reads it. All are there, or counted as missing.
    fn check(name: &str, entries: u64, size: usize) {
        let path = std::env::temp_dir().join(format!("comet-{}-{name}", std::process::id()));
        // Of an earlier process with this id, if at all.
        let _ = fs::remove_file(&path);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        // Opened for both, a pipe makes nobody wait for its other end.
        let pipe = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(fcntl_setpipe_size(&pipe, PIPE_BYTES).unwrap(), PIPE_BYTES);
        let counts = Arc::new(LogCounts::default());
        let sink = Sink::append(&path, 0o600).unwrap();
        let writer = LineWriter::start("test", sink, Numbers, Arc::clone(&counts)).unwrap();
        // The thread takes no more entries while it waits for the pipe.
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
    fn what_does_not_fit_is_counted_and_said_later() {
        check("by-number", 3 * WAITING_MAX as u64, 20);
        check("by-bytes", 200, LOG_BYTES_MAX / 50);
    }
}
