//! How connections are closed when the server drains.

use std::time::Duration;

/// How a drain goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainPlan {
    /// How long new clients are still accepted after its begin, so that load balancers can follow.
    pub delay: Duration,
    /// How long clients may take to leave after that, when the process ends.
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
