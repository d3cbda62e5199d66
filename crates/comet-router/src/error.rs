//! The errors of a store, each with a sentence for the log.

use std::time::Duration;
use std::{error, fmt};

/// Why a store gave no answer. `Display` writes one sentence, which names the node.
///
/// The call may have taken effect in part. An incomplete session ends after the store's lifetime,
/// or is completed by [`renew`](crate::Sessions::renew).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// An address is invalid or listed twice, or there is none.
    BadAddress {
        /// What is wrong. It does not contain the password of the address.
        sentence: String,
    },
    /// The node cannot be reached, or refused the command.
    Failed {
        /// Address and database of the node.
        node: String,
        /// The error text of the node or of the operating system.
        sentence: String,
    },
    /// The node did not answer in time.
    Deadline {
        /// Address and database of the node.
        node: String,
        /// The time limit of the whole call.
        timeout: Duration,
    },
    /// A key of the layout has a value of another form.
    Foreign {
        /// Address and database of the node.
        node: String,
        /// The Redis key.
        name: String,
        /// What is wrong with its value.
        sentence: String,
    },
    /// The store in memory has no space for another session or user.
    Full {
        /// The most sessions that it holds.
        sessions_max: usize,
    },
    /// The store in memory has no space for the rooms that a server has reported.
    TooManyRooms {
        /// The most rooms that it holds, of all servers.
        rooms_max: usize,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadAddress { sentence } => formatter.write_str(sentence),
            Self::Failed { node, sentence } => {
                write!(formatter, "the session store at {node} failed: {sentence}")
            }
            Self::Deadline { node, timeout } => {
                write!(formatter, "the session store at {node} did not answer within {timeout:?}")
            }
            Self::Foreign { node, name, sentence } => write!(
                formatter,
                "{name} in the session store at {node} is not what it should be: {sentence}"
            ),
            Self::Full { sessions_max } => {
                write!(formatter, "the session store is full: it takes {sessions_max} sessions")
            }
            Self::TooManyRooms { rooms_max } => {
                write!(formatter, "the session store is full: it takes {rooms_max} rooms")
            }
        }
    }
}

impl error::Error for StoreError {}
