//! Why the control thread did not start.

use std::error::Error;
use std::path::PathBuf;
use std::{fmt, io};

use comet_serve::{BadAddress, root_cause};

/// Why the control thread did not start.
#[derive(Debug)]
pub enum StartError {
    /// Its servers or its thread did not start.
    Serve(comet_serve::StartError),
    /// The trace log's file cannot be opened.
    TraceLog {
        /// Its path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// An address of a logic service is invalid.
    LogicAddress(BadAddress),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve(error) => error.fmt(f),
            Self::TraceLog { path, error } => {
                write!(f, "white_list.file: cannot write {}: {error}", path.display())
            }
            Self::LogicAddress(BadAddress { address, error }) => {
                write!(f, "logic.addrs: {address:?} is no address: {}", root_cause(error.as_ref()))
            }
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Serve(error) => Some(error),
            Self::TraceLog { error, .. } => Some(error),
            Self::LogicAddress(BadAddress { error, .. }) => Some(error.as_ref()),
        }
    }
}

impl From<comet_serve::StartError> for StartError {
    fn from(error: comet_serve::StartError) -> Self {
        Self::Serve(error)
    }
}

impl From<BadAddress> for StartError {
    fn from(error: BadAddress) -> Self {
        Self::LogicAddress(error)
    }
}
