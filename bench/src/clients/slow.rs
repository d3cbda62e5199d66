//! Slow readers, which read a little at regular times, and stalled ones, which read nothing.

use std::io;

use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns};
use crate::crowd::Reading;
use crate::receiver::Receiver;

/// Time between two reads of a slow reader.
const STEP_NS: u64 = 100 * MILLISECOND_NS;

/// Connections that the receiver has paused.
pub(super) struct SlowReaders {
    /// Bytes of one read.
    bytes: usize,
    due_ns: u64,
    slow: Vec<usize>,
    stalled: Vec<usize>,
}

impl SlowReaders {
    /// No readers yet; slow ones will read this much.
    pub(super) fn new(bytes_per_second: u32) -> Self {
        let bytes = u64::from(bytes_per_second) * STEP_NS / SECOND_NS;
        let bytes = usize::try_from(bytes).expect("a u32").max(1);
        Self { bytes, due_ns: now_ns(), slow: Vec::new(), stalled: Vec::new() }
    }

    /// Pauses a connection of the receiver if it is slow or stalled.
    pub(super) fn add(
        &mut self,
        receiver: &mut Receiver,
        index: usize,
        reading: Reading,
    ) -> io::Result<()> {
        match reading {
            Reading::AtOnce => return Ok(()),
            Reading::Slowly => self.slow.push(index),
            Reading::Never => self.stalled.push(index),
        }
        receiver.pause_reading(index)
    }

    /// Makes the reads that are due; returns when the next one is.
    pub(super) fn act(&mut self, receiver: &mut Receiver) -> u64 {
        if self.due_ns <= now_ns() {
            for &index in &self.slow {
                receiver.read_some(index, self.bytes);
            }
            self.due_ns += STEP_NS;
        }
        self.due_ns
    }

    /// All readers read like all others again.
    pub(super) fn release(self, receiver: &mut Receiver) -> io::Result<()> {
        let all = self.slow.into_iter().chain(self.stalled);
        all.into_iter().try_for_each(|index| receiver.resume_reading(index))
    }
}
