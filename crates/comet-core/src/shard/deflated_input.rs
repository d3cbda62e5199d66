//! Compressed messages of clients. A few bytes may be inflated to a whole message of the largest size, so a turn inflates only so much;
//! what is behind that waits for the next one.

use std::collections::VecDeque;

use comet_proto::websocket::Event;

use crate::budget::{self, Budget};
use crate::deflate::Inflater;
use crate::ids::{LocalConnId, Slot};
use crate::limits::INFLATED_PER_TURN;

use super::Shard;
use super::rates::Input;

#[derive(Default)]
pub(super) struct DeflatedInput {
    inflater: Inflater,
    /// In this turn.
    inflated_bytes: usize,
    /// Connections with input that waits for another turn. One that receives more meanwhile is in it more often.
    waiting: VecDeque<LocalConnId>,
    /// How many at the front were held for a hand-over.
    released: usize,
}

impl DeflatedInput {
    pub(super) fn begin_turn(&mut self) {
        self.inflated_bytes = 0;
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// All that wait now were held for a hand-over.
    pub(super) fn note_released(&mut self) {
        self.released = self.waiting.len();
    }

    /// Whether input that was held for a hand-over is not read yet.
    pub(super) fn has_released(&self) -> bool {
        self.released > 0
    }

    fn is_spent(&self) -> bool {
        self.inflated_bytes >= INFLATED_PER_TURN
    }
}

impl Shard {
    /// Whether the input of the connection has to wait, which may be compressed. It goes on with [`Shard::read_waiting`].
    pub(super) fn holds_deflated(&mut self, slot: Slot) -> bool {
        let is_spent = self.deflated_input.is_spent();
        if is_spent {
            self.wait_for_turn(slot);
        }
        is_spent
    }

    /// The input of the connection waits for another turn.
    pub(super) fn wait_for_turn(&mut self, slot: Slot) {
        self.deflated_input.waiting.push_back(self.conns.id(slot).local());
    }

    /// Reads on where input waited for another turn.
    pub(super) fn read_waiting(&mut self, budget: &mut Budget) {
        while budget.is_left()
            && !self.deflated_input.is_spent()
            && let Some(conn) = self.deflated_input.waiting.pop_front()
        {
            budget.spend(budget::ANSWER);
            self.deflated_input.released = self.deflated_input.released.saturating_sub(1);
            let before = self.deflated_input.inflated_bytes;
            if self.conns.get(conn).is_some_and(|conn| conn.is_open()) {
                self.resume(conn.slot);
            }
            let inflated = self.deflated_input.inflated_bytes - before;
            budget.spend(inflated / budget::INFLATE_BYTES);
        }
    }

    pub(super) fn handle_compressed(
        &mut self,
        slot: Slot,
        payload: &[u8],
        is_text: bool,
        message_max: usize,
    ) {
        let mut inflater = std::mem::take(&mut self.deflated_input.inflater);
        let message = inflater.inflate(payload, message_max);
        // A message that is refused is inflated as far as one of the largest size.
        let length = message.as_ref().map_or(message_max, |message| message.len());
        self.deflated_input.inflated_bytes += length;
        match message.and_then(|message| Event::inflated(message, is_text)) {
            Ok(event) => {
                // What came in was counted as it came.
                let grown = length.saturating_sub(payload.len());
                if self.may_send(slot, Input::Bytes(grown)) {
                    self.handle_event(slot, event);
                }
            }
            Err(fault) => self.close_for_fault(slot, &fault),
        }
        self.deflated_input.inflater = inflater;
    }
}
