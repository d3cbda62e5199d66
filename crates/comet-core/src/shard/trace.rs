//! The trace log: what happens to the connections of listed users. All others pay one look at a flag.

use comet_proto::{Frame, HEADER_LEN};

use crate::budget::Budget;
use crate::ids::Slot;
use crate::message::{TraceEvent, TraceKind};

use super::Shard;

impl Shard {
    /// The list has changed: decides anew for every connection, from the first slot on.
    pub(super) fn update_all_tracing(&mut self, budget: &mut Budget) {
        while let Some(slot) = self.tracing_from
            && budget.is_left()
        {
            budget.spend(1);
            if self.conns.is_taken(slot) {
                self.update_tracing(slot);
            }
            let next = slot.next();
            self.tracing_from = (next < self.conns.end()).then_some(next);
        }
    }

    /// Decides whether a connection is traced. None is before it is registered.
    pub(super) fn update_tracing(&mut self, slot: Slot) {
        let conn = &mut self.conns[slot];
        conn.is_traced =
            conn.is_live() && self.context.limits.trace_users.binary_search(&conn.user).is_ok();
    }

    #[cold]
    pub(super) fn trace_read(&mut self, slot: Slot, frame: &Frame<'_>) {
        let Frame { operation, sequence, body, .. } = *frame;
        let bytes = (HEADER_LEN + body.len()) as u32;
        self.trace(slot, TraceKind::Read { operation, sequence, bytes });
    }

    /// The kernel took `bytes` more of what is in flight. Comes before the outbox advances.
    #[cold]
    pub(super) fn trace_written(&mut self, slot: Slot, bytes: usize) {
        let conn = &self.conns[slot];
        for (operation, sequence, bytes) in
            self.outboxes.chains.frames_taken(&conn.outbox, conn.transport, bytes)
        {
            self.trace(slot, TraceKind::Wrote { operation, sequence, bytes });
        }
    }

    #[cold]
    pub(super) fn trace(&mut self, slot: Slot, what: TraceKind) {
        let conn = &self.conns[slot];
        let (user, key) = (conn.user, conn.key.clone());
        let id = self.conns.id(slot);
        let event = TraceEvent { conn: id, user, key, what, at: self.context.now };
        if !self.reports.push_trace(Box::new(event)) {
            self.counters.trace_missed += 1;
        }
    }
}
