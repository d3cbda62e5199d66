//! The number of clients, for a thread that may wait for the shards.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;

use crate::counts::snapshots;
use crate::hub::HubDriver;

/// How long a census waits for the shards.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The clients of all shards at about the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Census {
    /// Connections.
    pub connections: u64,
    /// Connections that are authenticated.
    pub live: u64,
    /// Distinct addresses of connections; 0 where they are not counted
    /// ([`SourceLimits::is_on`](comet_core::SourceLimits::is_on)).
    pub addresses: u64,
}

/// Asks the shards for a census.
pub struct CensusTaker {
    hub: Arc<HubDriver>,
}

impl CensusTaker {
    pub(crate) fn new(hub: Arc<HubDriver>) -> Self {
        Self { hub }
    }

    /// Blocks the calling thread until all shards have answered. `None`: one has not answered within a second.
    ///
    /// # Panics
    /// On a thread with a runtime.
    #[must_use]
    pub fn take(&self) -> Option<Census> {
        // Control's thread has the clock and the reports; this thread only waits for the outcome.
        let runtime = runtime::Builder::new_current_thread().build().ok()?;
        let shards = runtime.block_on(snapshots(&self.hub, ANSWER_TIMEOUT)).ok()?;
        let sum = |read: fn(&comet_core::Counters) -> u64| {
            shards.iter().map(|(_, counters)| read(counters)).sum()
        };
        Some(Census {
            connections: sum(|counters| counters.connections),
            live: sum(|counters| counters.live),
            addresses: sum(|counters| counters.addresses),
        })
    }
}

impl fmt::Debug for CensusTaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CensusTaker").finish_non_exhaustive()
    }
}
