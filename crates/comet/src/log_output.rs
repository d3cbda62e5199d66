//! Which log lines are written, where and in which form: `log.level`, `log.file` and `log.format`.
//!
//! The level is the facade's own ([`log::max_level`]), so any code can change it while the server runs. The crates of comet
//! are written, others are not. RUST_LOG is a filter behind it. Where it is set, it decides by module which lines are written, and the
//! level starts as the most verbose one of all modules. A thread of its own writes the
//! lines ([`ProcessLog`]).

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use comet_config::LogLevel;
use comet_ops::{Escaped, LogFormat, ProcessLog, json_line};
use env_logger::{Builder, DEFAULT_FILTER_ENV, Logger, Target, WriteStyle};
use log::{LevelFilter, Log, Metadata, Record};

use crate::log_filter;

/// The target of the access log.
const ACCESS: &str = "access";

/// The log of the process. Dropped, it waits until what was logged is written, for a second at most.
#[derive(Debug)]
pub(crate) struct LogOutput {
    lines: ProcessLog,
    /// RUST_LOG is set: the configured level has no effect.
    is_overruled: bool,
}

impl LogOutput {
    /// Starts writing the log by `settings`.
    ///
    /// # Errors
    /// If RUST_LOG has mistakes, or the file cannot be opened to append, as a sentence.
    ///
    /// # Panics
    /// If the process has a log already.
    pub(crate) fn start(settings: &comet_config::Log) -> Result<Self, String> {
        let filters = log_filter::from_environment(settings.level)?;
        let mut builder = Builder::new();
        match &filters {
            Some(filters) => builder.parse_filters(filters),
            // Lines of libraries have no bound: rustls logs each bad hello, with text of the peer.
            None => builder
                .filter_level(LevelFilter::Off)
                .filter_module("comet", LevelFilter::Trace)
                .filter_module(ACCESS, LevelFilter::Trace),
        };
        let format = format(settings.format);
        let lines = ProcessLog::open(settings.file.as_deref(), format)
            .map_err(|error| cannot_open(settings.file.as_deref(), &error))?;
        builder.target(Target::Pipe(Box::new(lines.appender())));
        match format {
            LogFormat::Text => {
                builder.format_timestamp_millis();
                if settings.file.is_none() && is_colorful_stderr() {
                    builder.write_style(WriteStyle::Always);
                }
            }
            LogFormat::Json => {
                builder.format(|line, record| {
                    line.write_all(&json_line(record.level(), record.target(), record.args()))
                });
            }
        }
        let logger = builder.build();
        let level = if filters.is_some() { logger.filter() } else { filter(settings.level) };
        log::set_boxed_logger(Box::new(Escaping { logger, format }))
            .expect("the process starts its log once");
        log::set_max_level(level);
        Ok(Self { lines, is_overruled: filters.is_some() })
    }

    /// Opens the file again, because the old one may have been moved away. If that fails, a line in the log says so,
    /// and the old file stays in use. Never waits.
    pub(crate) fn reopen(&self) {
        self.lines.reopen();
    }

    /// Makes a panic of any thread end the process. A core that panicked has lost the state of its connections. If the
    /// process continued, its clients would hang.
    pub(crate) fn abort_on_panic(&self) {
        let lines = self.lines.clone();
        std::panic::set_hook(Box::new(move |panic| {
            lines.report_panic(panic);
            std::process::abort();
        }));
    }

    /// Changes the level, unless RUST_LOG overrules it.
    ///
    /// # Errors
    /// If RUST_LOG overrules it, as a sentence.
    pub(crate) fn set_level(&self, level: LogLevel) -> Result<(), String> {
        if self.is_overruled {
            return Err(format!("log.level: {DEFAULT_FILTER_ENV} is set and overrules it"));
        }
        log::set_max_level(filter(level));
        Ok(())
    }
}

/// Why lines cannot be written to `file`; `None` is standard error.
pub(crate) fn cannot_open(file: Option<&Path>, error: &io::Error) -> String {
    let name = file.unwrap_or("standard error".as_ref());
    format!("log.file: cannot open {}: {error}", name.display())
}

/// Escapes control characters in messages, which may come from a peer, a file or a library, so that each line stays one
/// line. JSON has its own escapes.
struct Escaping {
    logger: Logger,
    format: LogFormat,
}

impl Log for Escaping {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.logger.matches(record) {
            let message = Escaped(record.args());
            #[cfg(debug_assertions)]
            comet_ops::panic_if_asked(comet_ops::PANIC_WHEN_LOGGED, &message.to_string());
            if self.format == LogFormat::Json {
                return self.logger.log(record);
            }
            self.logger.log(
                &Record::builder()
                    .metadata(record.metadata().clone())
                    .module_path(record.module_path())
                    .file(record.file())
                    .line(record.line())
                    .args(format_args!("{message}"))
                    .build(),
            );
        }
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

impl Drop for LogOutput {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

/// Whether to use colors, by the rules that env_logger applies to a target of its own (<https://no-color.org>).
fn is_colorful_stderr() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// The form of lines that the configuration names.
pub(crate) fn format(format: comet_config::LogFormat) -> LogFormat {
    match format {
        comet_config::LogFormat::Text => LogFormat::Text,
        comet_config::LogFormat::Json => LogFormat::Json,
    }
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
