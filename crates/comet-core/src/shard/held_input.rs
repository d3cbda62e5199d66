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

    /// Reads what was held, here or in the shard that this one has taken over from.
    pub fn release_input(&mut self) {
        self.is_input_held = false;
        let slots: Vec<Slot> = self.taken_slots().collect();
        for slot in slots {
            let input = self.conns[slot].input.as_ref();
            if input.is_some_and(|input| !input.bytes.is_empty()) && self.conns[slot].is_open() {
                self.resume(slot);
            }
        }
        self.dispatch_local();
    }

    /// Whether the input of `slot` has to wait.
    pub(super) fn holds_input(&self, slot: Slot) -> bool {
        let conn = &self.conns[slot];
        conn.holds_input() || (self.is_input_held && matches!(conn.state, ConnState::Live))
    }
}
