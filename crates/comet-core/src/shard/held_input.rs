//! Input that is held back because the shard is about to be handed over. A connection that waits for an answer of logic or a home
//! cannot be handed over, so no further request begins. What clients send meanwhile is read by whoever goes on.

use crate::ids::Slot;
use crate::state::ConnState;

use super::Shard;

impl Shard {
    /// From now on nothing is read of what live connections send. It is bounded as that of a connection that waits for an answer.
    pub fn hold_input(&mut self) {
        self.is_input_held = true;
    }

    /// Has what was held read in the turns that follow, here or in the shard that this one has taken over from.
    pub fn release_input(&mut self) {
        self.is_input_held = false;
        let slots: Vec<Slot> = self.taken_slots().collect();
        for slot in slots {
            let input = self.conns[slot].input.as_ref();
            if input.is_some_and(|input| !input.bytes.is_empty()) && self.conns[slot].is_open() {
                self.wait_for_turn(slot);
            }
        }
    }

    /// Reads what is held of `slot` alone, and whatever has come with it: its client has left, or sends more than may wait.
    pub(super) fn read_held(&mut self, slot: Slot) {
        let is_held = std::mem::take(&mut self.is_input_held);
        let reads_at_once = self.deflated_input.read_at_once(true);
        self.resume_reading(slot);
        self.deflated_input.read_at_once(reads_at_once);
        self.is_input_held = is_held;
    }

    /// Whether the input of `slot` waits only because the shard is about to be handed over.
    pub(super) fn waits_for_hand_over(&self, slot: Slot) -> bool {
        self.is_input_held && matches!(self.conns[slot].state, ConnState::Live)
    }

    /// Whether something that the client has sent is held for a hand-over, or waits for its turn. So it is read soon.
    pub(super) fn has_unread(&self, slot: Slot) -> bool {
        let is_held = self.waits_for_hand_over(slot);
        let input = self.conns[slot].input.as_ref();
        input.is_some_and(|input| (is_held || input.waits_for_turn) && !input.bytes.is_empty())
    }

    /// Whether the input of `slot` has to wait.
    pub(super) fn holds_input(&self, slot: Slot) -> bool {
        self.conns[slot].awaits_answer() || self.waits_for_hand_over(slot)
    }
}
