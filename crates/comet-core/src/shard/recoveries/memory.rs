//! What clients missed, on its way from homes to their connections: how much that may be at once.
//!
//! A client chooses its position, so each may ask for something else. Without a bound, all clients that come back at once
//! would have as many answers in memory.

use std::collections::BTreeMap;

use crate::ids::Slot;
use crate::limits::Limits;

/// Answers of homes that this shard has asked for, and the connections that wait until it may ask.
#[derive(Default)]
pub(super) struct RecoveryMemory {
    /// Requests that are not answered. Each may take [`Limits::recovery_max`].
    requests: usize,
    /// Bytes of answers whose connections do not have them yet.
    bytes: usize,
    /// By their numbers.
    waiting: BTreeMap<u64, Slot>,
    latest: u64,
}

impl RecoveryMemory {
    /// Has a connection wait behind the others. Returns its number.
    pub(super) fn wait(&mut self, slot: Slot) -> u64 {
        self.latest += 1;
        self.waiting.insert(self.latest, slot);
        self.latest
    }

    /// A connection does not wait any more.
    pub(super) fn forget(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// The next connection for which the home may be asked, which does not wait any more. One may be asked for always.
    pub(super) fn next(&mut self, limits: &Limits) -> Option<Slot> {
        let bytes = self.bytes + self.requests * limits.recovery_max();
        if bytes > 0 && bytes + limits.recovery_max() > limits.recovery_memory {
            return None;
        }
        let (_, slot) = self.waiting.pop_first()?;
        self.requests += 1;
        Some(slot)
    }

    /// The home has answered, with so many bytes.
    pub(super) fn note_answer(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes += bytes;
    }

    /// A connection has an answer of so many bytes, or is gone.
    pub(super) fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// Bytes of answers that connections do not have yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
