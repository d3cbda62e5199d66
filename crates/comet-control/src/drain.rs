//! How connections are closed when the server ends.

use std::time::Duration;

/// How a drain goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainPlan {
    /// How long clients may take to leave.
    pub limit: Duration,
    /// Time the close notices are spread over.
    pub over: Duration,
    /// Each client is told to wait a random time up to this before it reconnects; zero: it is told
    /// nothing.
    pub retry_after: Duration,
}

/// How far the shards got with a drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drained {
    /// Shards whose last connection is closed.
    pub done: usize,
    /// All shards.
    pub shards: usize,
}
