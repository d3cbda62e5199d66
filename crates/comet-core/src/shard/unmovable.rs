//! Connections that no other process can go on with.

use crate::ids::ConnId;
use crate::ledger::CloseReason;

use super::Shard;

impl Shard {
    /// Closes a connection that cannot be handed over, if it is open. Its notice names a random time to wait up to
    /// `retry_after_ms`.
    pub fn close_unmovable(&mut self, conn: ConnId, retry_after_ms: u32) {
        if let Some(slot) = self.conns.find(conn)
            && self.conns[slot].is_open()
        {
            let hint = self.jitter.within(0..=retry_after_ms);
            self.close_with_hint(slot, CloseReason::Draining, "", Some(hint));
            self.dispatch_local();
        }
    }
}
