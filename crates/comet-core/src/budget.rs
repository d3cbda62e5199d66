//! How much a driver lets its shard do before it looks at its sockets and its clock again.

use crate::limits::{Limits, MESSAGES_PER_TURN, PUSH_BYTES_PER_TURN, SLICE_UNITS};
use crate::message::Message;

/// Units of work. A unit is about the time of one delivery to an outbox: 10 ns where the outbox is as the one
/// before it, 100 ns where nothing of it is in the cache. What takes longer costs several.
///
/// The shard has no clock. So the driver hands out slices, each of which takes a fraction of a millisecond,
/// and looks at its own clock in between. What does not fit into a slice is continued in the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    units: usize,
}

/// Looking up a key, a user or a room.
pub(crate) const LOOKUP: usize = 4;
/// Sending, dropping or expiring an entry of a home.
pub(crate) const ENTRY: usize = 8;
/// Looking at a connection that a list may have.
pub(crate) const LOOK: usize = 2;
/// Asking the kernel for the address of a peer.
pub(crate) const ADDRESS: usize = 8;
/// Answering a client that waited, with whatever input it had held.
pub(crate) const ANSWER: usize = 32;
/// Bytes of a push that are encoded in the text form for a unit of work. A byte takes 13 ns at most, which is where none is UTF-8.
pub(crate) const TEXT_BYTES: usize = 8;
/// Compressing a message of any length, which takes 20 microseconds, and bytes of it for a unit of work beside that. A byte takes 30 ns
/// at the highest level.
pub(crate) const DEFLATE: usize = 200;
pub(crate) const DEFLATE_BYTES: usize = 4;
/// Bytes that are copied for a unit of work, into memory that the kernel may have to clear first.
pub(crate) const COPY_BYTES: usize = 32;
/// Bytes that a message is inflated to for a unit of work.
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

    /// Whether more may be done.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.units > 0
    }

    /// Takes off what was done. The last piece of work may cost more than there was left.
    pub(crate) fn spend(&mut self, units: usize) {
        self.units = self.units.saturating_sub(units);
    }
}

/// The pushes that a driver hands to its shard in one turn: half an outbox of them and a quarter of its bytes,
/// with the longest frame behind them, and [`MESSAGES_PER_TURN`] and [`PUSH_BYTES_PER_TURN`] at most. So a burst
/// of pushes fills no outbox before its bytes were offered to the kernel once, in one send.
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

    /// Whether one more message may be handed over.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.messages > 0
    }

    /// Takes `message` off the budget. The one that exceeds the bytes is the last.
    pub fn spend(&mut self, message: &Message) {
        self.spend_bytes(message.push_bytes());
    }

    /// Whether so many pushes of so many bytes take half of it.
    pub(crate) fn is_half_spent_by(&self, pushes: usize, bytes: usize) -> bool {
        pushes >= self.messages.div_ceil(2) || bytes >= self.push_bytes / 2
    }

    /// As [`MessageBudget::spend`], for a push of so many bytes.
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
