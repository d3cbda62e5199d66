//! Why a server did not start, each in one sentence.

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
    /// TLS cannot be served.
    Tls(TlsError),
    /// A file of the APIs' TLS cannot be used: a sentence.
    ApiTls(String),
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
            Self::Tls(error) => write!(f, "tls: {error}"),
            Self::ApiTls(sentence) => f.write_str(sentence),
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
