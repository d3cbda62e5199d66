//! The nodes of a discovery, of which one is asked at a time.

/// The nodes, and how many of them have failed one after the other.
#[derive(Debug)]
pub(crate) struct Nodes {
    addresses: Vec<String>,
    current: usize,
    failed: usize,
}

impl Nodes {
    /// # Panics
    /// If there is none.
    pub(crate) fn new(addresses: Vec<String>) -> Self {
        assert!(!addresses.is_empty(), "a discovery has a node");
        Self { addresses, current: 0, failed: 0 }
    }

    /// The node to ask.
    pub(crate) fn current(&self) -> &str {
        &self.addresses[self.current]
    }

    /// The current node has answered.
    pub(crate) fn handle_success(&mut self) {
        self.failed = 0;
    }

    /// The current node has failed: the next one is current. Returns whether all of them have failed since one
    /// answered, or since this was last true.
    pub(crate) fn handle_failure(&mut self) -> bool {
        self.current = (self.current + 1) % self.addresses.len();
        self.failed = (self.failed + 1) % self.addresses.len();
        self.failed == 0
    }
}
