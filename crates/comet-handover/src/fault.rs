//! Why a hand-over is refused.

use std::error::Error;
use std::fmt;

/// Why a hand-over is refused. The former process continues.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The bytes are not a hand-over.
    Malformed(String),
    /// More bytes than [`SHARD_BYTES_MAX`](crate::SHARD_BYTES_MAX).
    TooLarge(usize),
    /// The format is of a version that this release does not read.
    Version(u32),
    /// The hand-over requires something that this release does not know.
    Feature(String),
    /// Two parts contradict each other.
    Inconsistent(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "not a hand-over: {what}"),
            Self::TooLarge(bytes) => {
                write!(
                    f,
                    "a hand-over of {bytes} bytes; at most {} are read",
                    crate::SHARD_BYTES_MAX
                )
            }
            Self::Version(version) => {
                let ours = crate::VERSION;
                write!(f, "a hand-over of version {version}; this release reads 1 to {ours}")
            }
            Self::Feature(name) => {
                write!(f, "the hand-over requires {name:?}, which this release does not know")
            }
            Self::Inconsistent(what) => write!(f, "a hand-over that contradicts itself: {what}"),
        }
    }
}

impl Error for Fault {}
