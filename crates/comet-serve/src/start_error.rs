//! Why a thread of servers did not start.

use std::error::Error;
use std::{fmt, io};

use comet_listen::ListenError;

/// Why a thread of servers did not start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Listen {
        /// Key of the configuration that names the address.
        setting: &'static str,
        /// What is wrong with it.
        source: ListenError,
    },
    /// The thread cannot run on these CPUs.
    Pin {
        /// Which thread.
        thread: &'static str,
        /// The CPUs asked for.
        cpus: Vec<usize>,
        /// The system's error.
        error: io::Error,
    },
    /// The thread or its runtime could not be made, or the runtime refused a listener.
    Thread {
        /// Which thread.
        thread: &'static str,
        /// The system's error.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { setting, source } => write!(f, "{setting}: {source}"),
            Self::Pin { thread, cpus, error } => {
                write!(f, "cannot run the {thread} thread on CPUs {cpus:?}: {error}")
            }
            Self::Thread { thread, error } => {
                write!(f, "cannot start the {thread} thread: {error}")
            }
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Listen { source, .. } => source.source(),
            Self::Pin { error, .. } | Self::Thread { error, .. } => Some(error),
        }
    }
}
