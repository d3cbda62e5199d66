//! The trace log: what happens to the connections of listed users. All others pay one look at a flag.

use comet_proto::{Frame, HEADER_LEN};

use crate::ids::Slot;
use crate::limits::TRACE_EVENTS_MAX;
use crate::message::{Report, TraceEvent, TraceKind};

use super::Shard;

/// Events on their way to control.
#[derive(Default)]
pub(super) struct TraceQueue {
    /// In the reports.
    waiting: usize,
    /// Those that came while too many waited; told as soon as there is room.
    missed: Option<Box<TraceEvent>>,
}

impl Shard {
    /// The list is another one: from now on other connections are traced.
    pub(super) fn relist(&mut self) {
        for slot in self.conns.indices() {
            if self.conns.is_taken(slot) {
                self.list(slot);
            }
        }
    }

    /// Decides whether a connection is traced; none is before it is registered.
    pub(super) fn list(&mut self, slot: Slot) {
        let entry = &mut self.conns[slot];
        entry.is_traced =
            entry.is_live() && self.limits.trace_users.binary_search(&entry.user).is_ok();
    }

    #[cold]
    pub(super) fn note_read(&mut self, slot: Slot, frame: &Frame<'_>) {
        let Frame { operation, sequence, body, .. } = *frame;
        let bytes = (HEADER_LEN + body.len()) as u32;
        self.note(slot, TraceKind::Read { operation, sequence, bytes });
    }

    /// The kernel is about to be thanked for `bytes` more of what is in flight.
    #[cold]
    pub(super) fn note_written(&mut self, slot: Slot, bytes: usize) {
        let entry = &self.conns[slot];
        for (operation, sequence, bytes) in
            self.chains.frames_taken(&entry.outbox, entry.transport, bytes)
        {
            self.note(slot, TraceKind::Wrote { operation, sequence, bytes });
        }
    }

    #[cold]
    pub(super) fn note(&mut self, slot: Slot, what: TraceKind) {
        let conn = self.conn_id(slot);
        let entry = &self.conns[slot];
        let (user, key) = (entry.user, entry.key.clone());
        let mut event = Box::new(TraceEvent { conn, user, key, what, at: self.now });
        if self.trace.waiting < TRACE_EVENTS_MAX && self.trace.missed.is_none() {
            self.trace.waiting += 1;
            return self.reports.push_back(Report::Trace(event));
        }
        self.counters.trace_missed += 1;
        match self.trace.missed.as_deref_mut() {
            Some(TraceEvent { what: TraceKind::Missed { events }, .. }) => *events += 1,
            _ => {
                event.what = TraceKind::Missed { events: 1 };
                self.trace.missed = Some(event);
            }
        }
    }

    /// A trace event went out to control.
    pub(super) fn trace_reported(&mut self) {
        self.trace.waiting -= 1;
        if self.trace.waiting < TRACE_EVENTS_MAX
            && let Some(missed) = self.trace.missed.take()
        {
            self.trace.waiting += 1;
            self.reports.push_back(Report::Trace(missed));
        }
    }

    /// And came back.
    pub(super) fn trace_returned(&mut self) {
        self.trace.waiting += 1;
    }
}
