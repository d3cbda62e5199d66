//! How connections are closed when the server drains.

use std::time::Duration;

/// The parameters of a drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainPlan {
    /// How long after the beginning new clients are still accepted, so that load balancers can follow.
    pub delay: Duration,
    /// How long clients may take to leave after that, when the process ends.
    pub limit: Duration,
    /// Time over which the close notices are spread.
    pub over: Duration,
    /// Each client is told a random retry time up to this; zero: it is told none.
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
