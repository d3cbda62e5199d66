//! How much work a driver lets its shard do before it checks its sockets and its clock again.

use crate::limits::{Limits, MESSAGES_PER_TURN, PUSH_BYTES_PER_TURN, SLICE_UNITS};
use crate::message::Message;

/// Units of work. A unit is about the time of one delivery to an outbox: 10 ns if the outbox equals the previous one,
/// 100 ns if nothing of it is in the cache. Longer work costs several units.
///
/// The shard has no clock. So the driver hands out slices, each of which takes a fraction of a millisecond, and checks
/// its own clock in between. Work that does not fit into a slice continues in the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    units: usize,
}

/// Looking up a key, a user or a room.
pub(crate) const LOOKUP: usize = 4;
/// Sending, dropping or expiring an entry of a home.
pub(crate) const ENTRY: usize = 8;
/// Looking at a connection that may belong on a list.
pub(crate) const LOOK: usize = 2;
/// Asking the kernel for the address of a peer.
pub(crate) const ADDRESS: usize = 8;
/// Answering a client that waited, including the input that was held.
pub(crate) const ANSWER: usize = 32;
/// Bytes of a push that are encoded in the text form for one unit. A byte takes at most 13 ns, if nothing is valid
/// UTF-8.
pub(crate) const TEXT_BYTES: usize = 8;
/// The fixed cost of compressing a message, which takes 20 microseconds, and the bytes that are compressed for one
/// further unit. A byte takes 30 ns at the highest level.
pub(crate) const DEFLATE: usize = 200;
pub(crate) const DEFLATE_BYTES: usize = 4;
/// Bytes that are copied for one unit, into memory that the kernel may have to clear first.
pub(crate) const COPY_BYTES: usize = 32;
/// Bytes that inflating a message produces for one unit.
pub(crate) const INFLATE_BYTES: usize = 32;
/// Closing a connection: it leaves its room and its homes, and gets its close notice.
pub(crate) const CLOSE: usize = 32;

impl Budget {
    /// `units` of work.
    #[must_use]
    pub fn new(units: usize) -> Self {
        Self { units }
    }

    /// One slice of a turn.
    #[must_use]
    pub fn slice() -> Self {
        Self::new(SLICE_UNITS)
    }

    /// Whether more work may be done.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.units > 0
    }

    /// Subtracts work that was done. The last piece may cost more than what was left.
    pub(crate) fn spend(&mut self, units: usize) {
        self.units = self.units.saturating_sub(units);
    }
}

/// The pushes that a driver hands to its shard in one turn: half as many as an outbox may hold, and a quarter of its
/// bytes plus the frame that exceeds that; but at most [`MESSAGES_PER_TURN`] and [`PUSH_BYTES_PER_TURN`]. So a burst of
/// pushes fills no outbox before its bytes were offered to the kernel once, in one send.
#[derive(Clone, Copy, Debug)]
pub struct MessageBudget {
    messages: usize,
    push_bytes: usize,
}

impl MessageBudget {
    /// The budget of one turn.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            messages: usize::from(limits.svr_proto / 2).clamp(1, MESSAGES_PER_TURN),
            push_bytes: (limits.outbox_bytes as usize / 4).min(PUSH_BYTES_PER_TURN),
        }
    }

    /// Whether another message may be handed over.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.messages > 0
    }

    /// Subtracts `message`. One that exceeds the bytes is the last.
    pub fn spend(&mut self, message: &Message) {
        self.spend_bytes(message.push_bytes());
    }

    /// Whether this many pushes of this many bytes take half of it.
    pub(crate) fn is_half_spent_by(&self, pushes: usize, bytes: usize) -> bool {
        pushes >= self.messages.div_ceil(2) || bytes >= self.push_bytes / 2
    }

    /// As [`MessageBudget::spend`], for a push of `bytes` bytes.
    pub(crate) fn spend_bytes(&mut self, bytes: usize) {
        match self.push_bytes.checked_sub(bytes) {
            Some(left) => {
                self.push_bytes = left;
                self.messages = self.messages.saturating_sub(1);
            }
            None => self.messages = 0,
        }
    }
}
