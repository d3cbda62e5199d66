//! Those who are slow to read: a little every now and then, or nothing at all.

use std::io;

use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns};
use crate::crowd::Reading;
use crate::receiver::Receiver;

/// Time between two reads of a slow reader.
const STEP_NS: u64 = 100 * MILLISECOND_NS;

/// The slow and the stalled.
pub(super) struct Sipping {
    /// With one read.
    bytes: usize,
    due_ns: u64,
    slow: Vec<usize>,
    stalled: Vec<usize>,
}

impl Sipping {
    /// Slow ones read so much; nobody is slow yet.
    pub(super) fn new(bytes_per_second: u32) -> Self {
        let bytes = u64::from(bytes_per_second) * STEP_NS / SECOND_NS;
        let bytes = usize::try_from(bytes).expect("a u32").max(1);
        Self { bytes, due_ns: now_ns(), slow: Vec::new(), stalled: Vec::new() }
    }

    /// A connection of the receiver, which has muted it, reads so from now on.
    pub(super) fn add(&mut self, index: usize, reading: Reading) {
        match reading {
            Reading::Slowly => self.slow.push(index),
            Reading::Never => self.stalled.push(index),
            Reading::AtOnce => {}
        }
    }

    /// Reads what is due; says when the next is.
    pub(super) fn act(&mut self, receiver: &mut Receiver) -> u64 {
        if self.due_ns <= now_ns() {
            for &index in &self.slow {
                receiver.sip(index, self.bytes);
            }
            self.due_ns += STEP_NS;
        }
        self.due_ns
    }

    /// All read again like everybody else.
    ///
    /// # Errors
    ///
    /// epoll failed.
    pub(super) fn release(self, receiver: &mut Receiver) -> io::Result<()> {
        self.slow.into_iter().chain(self.stalled).try_for_each(|index| receiver.unmute(index))
    }
}
