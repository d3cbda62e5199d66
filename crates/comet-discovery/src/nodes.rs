//! The nodes of a discovery. One is asked at a time.

use std::mem::replace;
use std::time::Duration;

/// How long no node is asked after all of them have failed.
pub(crate) const PAUSE: Duration = Duration::from_secs(5);

/// A change of state: worth a line in a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeEvent {
    /// A node has failed, and the previous one had not. The next one is asked.
    Fails {
        /// The node.
        node: String,
        /// A sentence.
        cause: String,
    },
    /// A node has answered after a failure.
    Answers {
        /// The node.
        node: String,
    },
}

/// The nodes, and how many have failed in a row.
#[derive(Debug)]
pub(crate) struct Nodes {
    addresses: Vec<String>,
    current: usize,
    failed: usize,
    is_failing: bool,
}

/// The result of a failure of the current node.
pub(crate) struct Failure {
    /// Whether all nodes have failed since one answered, or since this was last true.
    pub(crate) of_all: bool,
    pub(crate) event: Option<NodeEvent>,
}

impl Nodes {
    /// # Panics
    /// If there are no addresses.
    pub(crate) fn new(addresses: Vec<String>) -> Self {
        assert!(!addresses.is_empty(), "a discovery has a node");
        Self { addresses, current: 0, failed: 0, is_failing: false }
    }

    /// The node to ask.
    pub(crate) fn current(&self) -> &str {
        &self.addresses[self.current]
    }

    /// Restarts the count of failures for [`Failure::of_all`].
    pub(crate) fn begin_round(&mut self) {
        self.failed = 0;
    }

    /// Notes that the current node has answered.
    pub(crate) fn handle_success(&mut self) -> Option<NodeEvent> {
        self.begin_round();
        let node = self.current().to_owned();
        replace(&mut self.is_failing, false).then_some(NodeEvent::Answers { node })
    }

    /// Notes that the current node has failed. The next one becomes current.
    pub(crate) fn handle_failure(&mut self, cause: String) -> Failure {
        let node = self.current().to_owned();
        self.current = (self.current + 1) % self.addresses.len();
        self.failed = (self.failed + 1) % self.addresses.len();
        let begins = !replace(&mut self.is_failing, true);
        let event = begins.then_some(NodeEvent::Fails { node, cause });
        Failure { of_all: self.failed == 0, event }
    }
}
