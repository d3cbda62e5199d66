//! Why an upgrade did not happen.

use std::process::ExitStatus;
use std::{fmt, io};

/// Why the former process continues.
#[derive(Debug)]
pub enum Failure {
    /// The new binary cannot be started.
    Start(io::Error),
    /// The new process ended.
    Ended(ExitStatus),
    /// The new process reports that it cannot continue, and why.
    Refused(String),
    /// The new process reads other formats.
    Format(String),
    /// It did not answer in time.
    Late,
    /// The new process violated the protocol, or the channel failed.
    Channel(io::Error),
    /// The former process cannot hand over now, and why.
    Unready(String),
}

impl Failure {
    /// All words of [`Failure::label`].
    pub const LABELS: [&str; 7] =
        ["not_started", "ended", "refused", "format", "late", "channel", "not_ready"];

    /// A word for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        let [not_started, ended, refused, format, late, channel, not_ready] = Self::LABELS;
        match self {
            Self::Start(_) => not_started,
            Self::Ended(_) => ended,
            Self::Refused(_) => refused,
            Self::Format(_) => format,
            Self::Late => late,
            Self::Channel(_) => channel,
            Self::Unready(_) => not_ready,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "the new binary does not start: {error}"),
            Self::Ended(status) => write!(f, "the new process ended: {status}"),
            Self::Refused(why) => write!(f, "the new process refuses: {why}"),
            Self::Format(why) => write!(f, "the new process cannot read the state: {why}"),
            Self::Late => f.write_str("the new process does not answer in time"),
            Self::Channel(error) => write!(f, "the new process: {error}"),
            Self::Unready(why) => write!(f, "this process cannot hand over: {why}"),
        }
    }
}

impl std::error::Error for Failure {}
