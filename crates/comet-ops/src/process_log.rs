//! The log of the process: formatted lines to standard error or a file. A separate thread writes them, so no serving
//! thread waits for a pipe without a reader, a stopped terminal, or a disk.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::thread;

use log::Level;
use nix::unistd::alarm;
use rustix::process::Signal;
use signal_hook::flag::register_conditional_shutdown;

use crate::escaped::Escaped;
use crate::exposition::{Exposition, Kind};
use crate::line_writer::{Change, Format, LineWriter, LogCounts, Sink};
use crate::log_format::{LogFormat, json_line, now};
use crate::stderr::print_error;

/// The process has one log.
static COUNTS: LazyLock<Arc<LogCounts>> = LazyLock::new(Arc::default);

/// The mode of a file that is created, before the umask.
const MODE: u32 = 0o666;

/// How long the report of a panic may take.
const REPORT_SECONDS: u32 = 10;

const SIGALRM: i32 = Signal::ALARM.as_raw();
/// The exit code that shells use for an end by SIGALRM.
const EXIT_ALARM: i32 = 128 + SIGALRM;

/// The handle of the log.
#[derive(Clone, Debug)]
pub struct ProcessLog {
    writer: LineWriter<Lines>,
    format: LogFormat,
    is_file: bool,
}

impl ProcessLog {
    /// Starts the thread that writes to `file`, or to standard error without one. `format` is for the lines of the log
    /// itself; a logger formats its own.
    ///
    /// # Errors
    /// If the file cannot be opened for appending, or the thread cannot be made.
    pub fn open(file: Option<&Path>, format: LogFormat) -> io::Result<Self> {
        // In a container the process is mostly the first one of its PID namespace. Without a handler the kernel drops the
        // signal there.
        register_conditional_shutdown(SIGALRM, EXIT_ALARM, Arc::new(AtomicBool::new(true)))?;
        let sink = match file {
            Some(path) => Sink::append(path, MODE)?,
            None => Sink::stderr()?,
        };
        let lines = Lines { format, cause: None };
        let writer = LineWriter::start("comet-log", sink, lines, Arc::clone(&COUNTS))?;
        Ok(Self { writer, format, is_file: file.is_some() })
    }

    /// The writer for a logger, which writes each line in one call. Never waits, never fails.
    #[must_use]
    pub fn appender(&self) -> impl Write + Send + 'static {
        Appender(self.writer.clone())
    }

    /// Opens the file again by its name, because it may have been moved away; if that fails, the log reports it. Never
    /// waits.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    /// Waits until all lines so far are written, for at most a second.
    pub fn flush(&self) {
        // A sink that takes nothing cannot report this either.
        let _ = self.writer.flush();
    }

    /// Reports a panic, and its backtrace if RUST_BACKTRACE asks for one, in a file and on standard error. If the log cannot take the
    /// report, because its own thread panics, it is still written to standard error. The caller then ends the process;
    /// if that takes longer than 10 seconds, SIGALRM ends it with the exit code 142.
    pub fn report_panic(&self, panic: &PanicHookInfo<'_>) {
        // The standard library holds a lock while it looks up the symbols of a backtrace, and takes the same lock to report
        // an allocation that fails. Where memory runs out meanwhile, this thread waits for itself.
        alarm::set(REPORT_SECONDS);
        self.report(&describe(panic));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            self.report(&format!("backtrace of the panic:\n{backtrace}"));
        }
    }

    fn report(&self, text: &str) {
        let line = line(self.format, Level::Error, text);
        self.writer.write(line.clone().into());
        let is_taken = self.writer.flush();
        if self.is_file || !is_taken {
            print_error(match self.format {
                LogFormat::Text => format!("{text}\n").into(),
                LogFormat::Json => line,
            });
        }
    }
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let place = panic.location().map_or_else(|| "-".to_owned(), ToString::to_string);
    let message = Escaped(panic.payload_as_str().unwrap_or("-"));
    format!("thread {name:?} panicked at {place}: {message}")
}

/// A line of the log itself, in the form of the logger's lines.
fn line(format: LogFormat, level: Level, text: &str) -> Vec<u8> {
    match format {
        LogFormat::Text => format!("[{:.3} {level:<5} comet_ops] {text}\n", now()).into(),
        LogFormat::Json => json_line(level, "comet_ops", text),
    }
}

struct Appender(LineWriter<Lines>);

impl Write for Appender {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line.into());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // A logger calls this for each line, so it must not wait.
    }
}

#[derive(Debug)]
struct Lines {
    format: LogFormat,
    /// Why lines are missing, if not because too many waited.
    cause: Option<String>,
}

impl Format for Lines {
    type Entry = Box<[u8]>;

    fn size(line: &Self::Entry) -> usize {
        line.len()
    }

    fn line(&mut self, line: Self::Entry, lines: &mut Vec<u8>) {
        #[cfg(debug_assertions)]
        crate::provoked_panic::panic_if_asked(
            crate::provoked_panic::PANIC_WHEN_WRITTEN,
            &String::from_utf8_lossy(&line),
        );
        lines.extend_from_slice(&line);
    }

    fn missing(&mut self, entries: u64, lines: &mut Vec<u8>) {
        let cause = self.cause.as_deref().unwrap_or("too many waited to be written");
        let text = format!("{entries} lines of the log are missing: {cause}");
        lines.extend_from_slice(&line(self.format, Level::Warn, &text));
    }

    fn changed(&mut self, change: Change<'_>) {
        match change {
            Change::Failed(error) => self.cause = Some(error.to_string()),
            Change::Recovered => self.cause = None,
            Change::NotReopened(error) => log::error!(
                "log.file: cannot open the file again, the old one is written on: {error}"
            ),
        }
    }
}

/// Adds the families of the log.
pub(crate) fn expose(page: &mut Exposition) {
    let (lines, missed) = COUNTS.read();
    page.family("comet_log_lines_total", Kind::Counter, "Lines of the log written.").sample(lines);
    page.family(
        "comet_log_missed_total",
        Kind::Counter,
        "Lines the log has not, because too many waited or they could not be written.",
    )
    .sample(missed);
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn missing_lines_are_reported_in_the_format_of_the_log() {
        let said = |format| {
            let mut lines = Vec::new();
            Lines { format, cause: Some("no \"space\"".to_owned()) }.missing(3, &mut lines);
            String::from_utf8(lines).unwrap()
        };
        let text = "3 lines of the log are missing: no \"space\"";
        let line = said(LogFormat::Text);
        assert!(line.ends_with(&format!("Z WARN  comet_ops] {text}\n")), "{line}");
        let line: Value = serde_json::from_str(&said(LogFormat::Json)).unwrap();
        assert_eq!((&line["level"], &line["message"]), (&"warn".into(), &text.into()));
    }
}
