//! The white log: what happens to the connections of listed users. All others pay one look at a flag.

use comet_proto::{Frame, HEADER_LEN};

use crate::limits::WHITE_MAX;
use crate::message::{Report, WhiteEvent, WhiteWhat};

use super::Shard;

/// Events on their way to control.
#[derive(Default)]
pub(super) struct White {
    /// In the reports.
    waiting: usize,
    /// Those that came while too many waited; told as soon as there is room.
    missed: Option<Box<WhiteEvent>>,
}

impl Shard {
    /// The list is another one: from now on other connections are white.
    pub(super) fn relist(&mut self) {
        for slot in 0..self.conns.end() {
            if self.conns.occupied(slot) {
                self.list(slot);
            }
        }
    }

    /// Decides whether a connection is white; none is before it is registered.
    pub(super) fn list(&mut self, slot: u32) {
        let entry = &mut self.conns[slot];
        entry.is_white =
            entry.is_live() && self.limits.white_list.binary_search(&entry.user).is_ok();
    }

    #[cold]
    pub(super) fn note_read(&mut self, slot: u32, frame: &Frame<'_>) {
        let Frame { operation, sequence, body, .. } = *frame;
        let bytes = (HEADER_LEN + body.len()) as u32;
        self.note(slot, WhiteWhat::Read { operation, sequence, bytes });
    }

    /// The kernel is about to be thanked for `bytes` more of what is in flight.
    #[cold]
    pub(super) fn note_written(&mut self, slot: u32, bytes: usize) {
        let entry = &self.conns[slot];
        for (operation, sequence, bytes) in
            self.chains.frames_taken(&entry.outbox, entry.transport, bytes)
        {
            self.note(slot, WhiteWhat::Wrote { operation, sequence, bytes });
        }
    }

    #[cold]
    pub(super) fn note(&mut self, slot: u32, what: WhiteWhat) {
        let conn = self.conn_id(slot);
        let entry = &self.conns[slot];
        let (user, key) = (entry.user, entry.key.clone());
        let mut event = Box::new(WhiteEvent { conn, user, key, what, at: self.now });
        if self.white.waiting < WHITE_MAX && self.white.missed.is_none() {
            self.white.waiting += 1;
            return self.reports.push_back(Report::White(event));
        }
        self.counters.white_missed += 1;
        match self.white.missed.as_deref_mut() {
            Some(WhiteEvent { what: WhiteWhat::Missed { events }, .. }) => *events += 1,
            _ => {
                event.what = WhiteWhat::Missed { events: 1 };
                self.white.missed = Some(event);
            }
        }
    }

    /// A white event went out to control.
    pub(super) fn white_told(&mut self) {
        self.white.waiting -= 1;
        if self.white.waiting < WHITE_MAX
            && let Some(missed) = self.white.missed.take()
        {
            self.white.waiting += 1;
            self.reports.push_back(Report::White(missed));
        }
    }

    /// And came back.
    pub(super) fn white_returned(&mut self) {
        self.white.waiting += 1;
    }
}
