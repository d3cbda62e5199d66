//! Compressed messages of clients. A few bytes may inflate to a message of the largest size. So a turn inflates a
//! bounded number of bytes, and later input waits for the next turn.

use std::collections::VecDeque;

use comet_proto::websocket::Event;

use crate::budget::{self, Budget};
use crate::deflate::Inflater;
use crate::ids::{LocalConnId, Slot};
use crate::limits::INFLATED_PER_TURN;

use super::Shard;
use super::rate_limiter::RateEvent;

/// A compressed byte costs as much time as this many inflated bytes.
const PAYLOAD_COST: usize = 8;

#[derive(Default)]
pub(super) struct DeflatedInput {
    inflater: Inflater,
    /// Inflated in this turn.
    inflated_bytes: usize,
    /// Connections whose input waits for another turn, each once.
    waiting: VecDeque<LocalConnId>,
    /// Input is read at once: that of the first connection in the queue, or of a client that has left.
    reads_at_once: bool,
}

impl DeflatedInput {
    pub(super) fn begin_turn(&mut self) {
        self.inflated_bytes = 0;
    }

    /// Sets whether input is read at once, ahead of waiting connections. Returns the former value.
    pub(super) fn read_at_once(&mut self, at_once: bool) -> bool {
        std::mem::replace(&mut self.reads_at_once, at_once)
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn is_spent(&self) -> bool {
        self.inflated_bytes >= INFLATED_PER_TURN
    }
}

impl Shard {
    /// Whether the connection's input, which may be compressed, has to wait. [`Shard::read_waiting`] continues it. The
    /// order is first come, first served: new input does not use up the turn of connections that wait.
    pub(super) fn holds_deflated(&mut self, slot: Slot) -> bool {
        let input = &self.deflated_input;
        let waits = input.is_spent() || (input.is_waiting() && !input.reads_at_once);
        if waits {
            self.wait_for_turn(slot);
        }
        waits
    }

    /// Queues the connection, because its input waits for another turn.
    pub(super) fn wait_for_turn(&mut self, slot: Slot) {
        let id = self.conns.id(slot).local();
        if !std::mem::replace(&mut self.conns[slot].input_mut().waits_for_turn, true) {
            self.deflated_input.waiting.push_back(id);
        }
    }

    /// Continues reading the input of connections that waited for another turn.
    pub(super) fn read_waiting(&mut self, budget: &mut Budget) {
        while budget.is_left()
            && !self.deflated_input.is_spent()
            && let Some(conn) = self.deflated_input.waiting.pop_front()
        {
            budget.spend(budget::ANSWER);
            let before = self.deflated_input.inflated_bytes;
            if let Some(input) = self.conns.get(conn).and_then(|conn| conn.input.as_deref_mut()) {
                input.waits_for_turn = false;
                self.deflated_input.read_at_once(true);
                self.resume_reading(conn.slot);
                self.deflated_input.read_at_once(false);
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
        // A message that is refused was inflated up to the largest size.
        let length = message.as_ref().map_or(message_max, |message| message.len());
        // Compressed bytes that inflate to nothing take time as well.
        self.deflated_input.inflated_bytes += length.max(PAYLOAD_COST * payload.len());
        match message.and_then(|message| Event::inflated(message, is_text)) {
            Ok(event) => {
                // The received bytes were counted on arrival.
                let grown = length.saturating_sub(payload.len());
                if self.may_send(slot, RateEvent::Bytes(grown)) {
                    self.handle_event(slot, event);
                }
            }
            Err(fault) => self.close_for_fault(slot, &fault),
        }
        self.deflated_input.inflater = inflater;
    }
}
