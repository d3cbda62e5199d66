//! The drain: no new clients, goodbyes paced over a time, and the report that all are gone.

use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::message::Report;
use crate::time::Millis;

use super::Shard;

/// Goodbyes on their way through the slab.
pub(super) struct Draining {
    next: Slot,
    /// Connections there were when it began, and how many of them were said goodbye to.
    connections: u64,
    said: u64,
    since: Millis,
    over_ms: u32,
    retry_after_ms: u32,
}

impl Shard {
    pub(super) fn drain(&mut self, over_ms: u32, retry_after_ms: u32) {
        self.is_draining = true;
        let connections = self.conns.len() as u64;
        let since = self.now;
        self.draining =
            Some(Draining { next: Slot(0), connections, said: 0, since, over_ms, retry_after_ms });
        self.say_goodbyes();
        self.report_drained();
    }

    /// Says goodbye to as many as are due.
    pub(super) fn say_goodbyes(&mut self) {
        let Some(mut draining) = self.draining.take() else { return };
        let Draining { connections, since, over_ms, retry_after_ms, .. } = draining;
        let elapsed = self.now.0 - since.0;
        let due = match u64::from(over_ms) {
            over_ms if elapsed >= over_ms => u64::MAX,
            over_ms => connections * elapsed / over_ms,
        };
        let end = self.conns.end();
        while draining.said < due && draining.next < end {
            let slot = draining.next;
            draining.next = slot.next();
            if self.conns.is_taken(slot) && self.conns[slot].is_open() {
                draining.said += 1;
                let hint = (retry_after_ms > 0).then(|| self.jitter.within(0..=retry_after_ms));
                self.turn_away(slot, CloseReason::Draining, "", hint);
            }
        }
        if draining.next < end {
            self.draining = Some(draining);
        }
    }

    pub(super) fn report_drained(&mut self) {
        if self.is_draining && self.conns.len() == 0 && !self.drained_reported {
            self.drained_reported = true;
            self.reports.push_back(Report::Drained { shard: self.id });
        }
    }
}
