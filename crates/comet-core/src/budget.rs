//! How many messages a driver hands to its shard in one turn.

use crate::limits::{Limits, MESSAGES_PER_TURN, PUSH_BYTES_PER_TURN};
use crate::message::Message;

/// The messages that fit into one turn: half an outbox of pushes and a quarter of its bytes, with the longest
/// frame behind them, and [`MESSAGES_PER_TURN`] and [`PUSH_BYTES_PER_TURN`] at most. So a burst of pushes
/// fills no outbox before its bytes were offered to the kernel once, in one send.
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
        match self.push_bytes.checked_sub(message.push_bytes()) {
            Some(left) => {
                self.push_bytes = left;
                self.messages -= 1;
            }
            None => self.messages = 0,
        }
    }
}
