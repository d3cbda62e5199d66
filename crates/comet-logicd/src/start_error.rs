//! Why `comet logic` did not start.

use std::error::Error;
use std::fmt;

use comet_serve::{BadAddress, root_cause};

/// Why `comet logic` did not start.
#[derive(Debug)]
pub enum StartError {
    /// Its servers or its thread.
    Serve(comet_serve::StartError),
    /// An address of a comet is none.
    CometAddress(BadAddress),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve(error) => error.fmt(f),
            Self::CometAddress(BadAddress { address, error }) => {
                write!(
                    f,
                    "logic_server.comets: {address:?} is no address: {}",
                    root_cause(error.as_ref())
                )
            }
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Serve(error) => Some(error),
            Self::CometAddress(BadAddress { error, .. }) => Some(error.as_ref()),
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
        Self::CometAddress(error)
    }
}
