//! What can keep a store from answering, each with a sentence for the log.

use std::time::Duration;
use std::{error, fmt};

/// Why a store gave no answer. Its `Display` is one sentence that names the store's node.
///
/// What was asked may have been done in part: a session that is only half there ends with the
/// store's lifetime, or is made whole by [`renew`](crate::Sessions::renew).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// An address that is none, or is listed twice, or no address at all.
    BadAddress {
        /// What is wrong with it; without the password it may contain.
        sentence: String,
    },
    /// The node cannot be reached, or refused the command.
    Failed {
        /// Address and database of the node.
        node: String,
        /// The node's words, or the operating system's.
        sentence: String,
    },
    /// The node did not answer in time.
    Deadline {
        /// Address and database of the node.
        node: String,
        /// How long the whole call may take.
        deadline: Duration,
    },
    /// A key of the layout holds something else.
    Foreign {
        /// Address and database of the node.
        node: String,
        /// The Redis key.
        name: String,
        /// What is wrong with its value.
        sentence: String,
    },
    /// The store in memory has no room for another session or user.
    Full {
        /// How many it takes.
        sessions_max: usize,
    },
}

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadAddress { sentence } => formatter.write_str(sentence),
            Self::Failed { node, sentence } => {
                write!(formatter, "the session store at {node} failed: {sentence}")
            }
            Self::Deadline { node, deadline } => {
                write!(formatter, "the session store at {node} did not answer within {deadline:?}")
            }
            Self::Foreign { node, name, sentence } => write!(
                formatter,
                "{name} in the session store at {node} is not what it should be: {sentence}"
            ),
            Self::Full { sessions_max } => {
                write!(formatter, "the session store is full: it takes {sessions_max} sessions")
            }
        }
    }
}

impl error::Error for StoreError {}
