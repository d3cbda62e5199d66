//! Why a server did not start, as a sentence, or as a line for each file of TLS.

use std::fmt;
use std::time::Duration;

use comet_net::{ProbeError, TlsError};

use crate::logic::LogicError;

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The machine lacks something that comet needs.
    Probe(ProbeError),
    /// An address cannot be listened on.
    Listen {
        /// The key of the configuration that names it.
        setting: &'static str,
        /// What is wrong with it.
        source: comet_net::ListenError,
    },
    /// TLS cannot be served, because of these files.
    Tls(Vec<TlsError>),
    /// A file of the APIs' TLS cannot be used: a sentence.
    ApiTls(String),
    /// The connection with other hosts cannot be configured: a sentence.
    Nats(String),
    /// Tokens cannot be checked.
    Logic(LogicError),
    /// The control thread did not start.
    Control(comet_control::StartError),
    /// A core did not start.
    Core(comet_net::CoreStartError),
    /// The process lacks a resource of the system.
    System(std::io::Error),
    /// A core did not report within this time.
    Silent(Duration),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(error) => error.fmt(f),
            Self::Listen { setting, source } => write!(f, "{setting}: {source}"),
            Self::Tls(errors) => {
                let lines = errors.iter().map(|error| {
                    let list = if error.is_key { "keys" } else { "certificates" };
                    format!("tls.{list}[{}]: {error}", error.pair)
                });
                f.write_str(&lines.collect::<Vec<_>>().join("\n"))
            }
            Self::ApiTls(sentence) | Self::Nats(sentence) => f.write_str(sentence),
            Self::Logic(error) => error.fmt(f),
            Self::Control(error) => error.fmt(f),
            Self::Core(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
            Self::Silent(time) => {
                write!(f, "a core did not start within {time:?}: is its CPU busy?")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<ProbeError> for StartError {
    fn from(error: ProbeError) -> Self {
        Self::Probe(error)
    }
}
