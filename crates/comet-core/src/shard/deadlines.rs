//! Deadlines of connections: handshake, heartbeat, write and linger.

use crate::budget::Budget;
use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::state::ConnState;

use super::Shard;
use super::connections::write_deadline;

impl Shard {
    /// Looks at the slots that the wheel reported, which are a bounded number.
    pub(super) fn expire_all(&mut self, budget: &mut Budget) {
        let mut expired = self.conns.take_expired();
        budget.spend(expired.len());
        for slot in expired.drain(..) {
            // The connection may be gone since; a new one in its slot has a later deadline.
            if self.conns.is_taken(slot) {
                self.expire(slot);
            }
        }
        self.conns.return_expired(expired);
    }

    /// The wheel reported `slot`: a deadline has passed, or was moved since it was armed.
    fn expire(&mut self, slot: Slot) {
        let now = self.context.now.tick();
        let conn = &self.conns[slot];
        let is_sending = conn.outbox.is_sending();
        if matches!(conn.state, ConnState::Closed) {
            return;
        }
        if is_sending && write_deadline(conn, &self.context) <= now {
            self.close(slot, CloseReason::WriteTimeout, "");
            self.abort(slot);
        } else if conn.deadline <= now {
            match conn.state {
                ConnState::Closing | ConnState::Lingering => self.abort(slot),
                _ if conn.is_live() => self.close(slot, CloseReason::HeartbeatTimeout, ""),
                _ => self.close(slot, CloseReason::HandshakeTimeout, ""),
            }
        } else {
            self.conns.arm(slot, &self.context);
        }
    }

    /// Moves the deadline of `slot` to `millis` from now.
    pub(super) fn set_deadline(&mut self, slot: Slot, millis: u32) {
        self.conns.set_deadline(slot, self.context.deadline(millis), &self.context);
    }

    /// Time between the heartbeats of `slot`.
    pub(super) fn heartbeat_ms(&self, slot: Slot) -> u32 {
        match self.conns[slot].heartbeat_ms {
            0 => self.context.limits.heartbeat_ms,
            millis => millis,
        }
    }
}
