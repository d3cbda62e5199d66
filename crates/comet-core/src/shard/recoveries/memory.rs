//! Bounds the memory of missed pushes on their way from homes to connections.
//!
//! A client chooses its position, so each client may need another answer. Without a bound, all clients that come back
//! at once would have an answer each in memory.

use std::collections::BTreeMap;

use crate::ids::Slot;
use crate::limits::Limits;

/// Counts the answers that this shard has asked homes for, and queues the connections for which it may not ask yet.
#[derive(Default)]
pub(super) struct RecoveryMemory {
    /// The number of requests that are not answered. Each answer may have [`Limits::recovery_max`].
    requests: usize,
    /// The bytes of answers that were not given to their connections yet.
    bytes: usize,
    /// Waiting connections, by number.
    waiting: BTreeMap<u64, Slot>,
    latest: u64,
}

impl RecoveryMemory {
    /// Queues a connection behind the others. Returns its number.
    pub(super) fn wait(&mut self, slot: Slot) -> u64 {
        self.latest += 1;
        self.waiting.insert(self.latest, slot);
        self.latest
    }

    /// Removes a connection from the queue.
    pub(super) fn forget(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// Takes the next connection for which the home may be asked from the queue. One request is always allowed.
    pub(super) fn next(&mut self, limits: &Limits) -> Option<Slot> {
        let bytes = self.bytes + self.requests * limits.recovery_max();
        if bytes > 0 && bytes + limits.recovery_max() > limits.recovery_memory {
            return None;
        }
        let (_, slot) = self.waiting.pop_first()?;
        self.requests += 1;
        Some(slot)
    }

    /// The home has answered with `bytes` bytes.
    pub(super) fn note_answer(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes += bytes;
    }

    /// An answer of `bytes` bytes was given to its connection, or the connection is gone.
    pub(super) fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// The bytes of answers that were not given to their connections yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
