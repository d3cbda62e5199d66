//! Which log lines are written, and where: `log.level` and `log.file`.
//!
//! The level is the facade's own ([`log::max_level`]), so any code can change it while the server runs.
//! RUST_LOG is a filter behind it. Where it is set, it decides by module which lines are written, and the
//! level starts as the most verbose one of all modules.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use comet_config::{Log, LogLevel};
use env_logger::{Builder, DEFAULT_FILTER_ENV, Target};
use log::LevelFilter;

use crate::log_filter;

/// The log of the process.
#[derive(Debug)]
pub(crate) struct LogOutput {
    file: Option<LogFile>,
    /// RUST_LOG is set: the configured level has no effect.
    is_overruled: bool,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    open: Arc<Mutex<File>>,
}

impl LogOutput {
    /// Writes the log as `settings` say from here on.
    ///
    /// # Errors
    /// If RUST_LOG has mistakes, or the file cannot be opened to append, as a sentence.
    ///
    /// # Panics
    /// If the process has a log already.
    pub(crate) fn start(settings: &Log) -> Result<Self, String> {
        let filters = log_filter::from_environment(settings.level)?;
        let mut builder = Builder::new();
        builder.format_timestamp_millis();
        match &filters {
            Some(filters) => builder.parse_filters(filters),
            None => builder.filter_level(LevelFilter::Trace),
        };
        let mut file = None;
        if let Some(path) = &settings.file {
            let open = append(path).map_err(|error| cannot_open(path, &error))?;
            let open = Arc::new(Mutex::new(open));
            builder.target(Target::Pipe(Box::new(Appender(Arc::clone(&open)))));
            file = Some(LogFile { path: path.clone(), open });
        }
        let logger = builder.build();
        let level = if filters.is_some() { logger.filter() } else { filter(settings.level) };
        log::set_boxed_logger(Box::new(logger)).expect("the process starts its log once");
        log::set_max_level(level);
        Ok(Self { file, is_overruled: filters.is_some() })
    }

    /// Opens the file again: the old one may have been moved away. Lines logged meanwhile are in one of
    /// the two.
    ///
    /// # Errors
    /// If that fails, as a sentence; the log goes on in the old file.
    pub(crate) fn reopen(&self) -> Result<(), String> {
        let Some(LogFile { path, open }) = &self.file else { return Ok(()) };
        let file = append(path).map_err(|error| cannot_open(path, &error))?;
        *open.lock().expect(NO_PANIC) = file;
        Ok(())
    }

    /// Changes the level, unless RUST_LOG overrules it.
    ///
    /// # Errors
    /// If it does, as a sentence.
    pub(crate) fn set_level(&self, level: LogLevel) -> Result<(), String> {
        if self.is_overruled {
            return Err(format!("log.level: {DEFAULT_FILTER_ENV} is set and overrules it"));
        }
        log::set_max_level(filter(level));
        Ok(())
    }
}

/// Writes to the file that is open.
struct Appender(Arc<Mutex<File>>);

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect(NO_PANIC).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // A file has no buffer of its own.
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn cannot_open(path: &Path, error: &io::Error) -> String {
    format!("log.file: cannot open {}: {error}", path.display())
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::Off,
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}
