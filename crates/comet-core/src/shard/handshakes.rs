//! Connections that have not authenticated yet. They are the cheapest attack, so they have a limit of their own: a new
//! one above the limit closes the oldest. A client that authenticates at once is hardly ever the oldest.

use std::collections::VecDeque;

use crate::ids::{LocalConnId, Slot};
use crate::ledger::CloseReason;

use super::Shard;

#[derive(Default)]
pub(super) struct Handshakes {
    /// In order of accept. Entries that have ended stay until they are found.
    queue: VecDeque<LocalConnId>,
    /// The number of entries that have not ended.
    pending: usize,
}

impl Handshakes {
    /// How many connections have not authenticated.
    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    fn begin(&mut self, conn: LocalConnId) {
        self.queue.push_back(conn);
        self.pending += 1;
    }

    /// A connection of the queue has authenticated or closed.
    pub(super) fn end(&mut self) {
        debug_assert!(self.pending > 0, "each ends once");
        self.pending -= 1;
    }
}

impl Shard {
    /// `slot` was accepted and is not authenticated.
    pub(super) fn begin_handshake(&mut self, slot: Slot) {
        self.handshakes.begin(self.conns.id(slot).local());
        self.forget_ended_handshakes();
        if self.handshakes.pending > self.context.limits.handshakes as usize
            && let Some(oldest) = self.oldest_handshake()
        {
            self.turn_away(oldest, CloseReason::HandshakeOverflow);
        }
    }

    fn oldest_handshake(&mut self) -> Option<Slot> {
        while let Some(conn) = self.handshakes.queue.pop_front() {
            if self.is_in_handshake(conn) {
                return Some(conn.slot);
            }
        }
        None
    }

    /// Keeps the queue below about twice the number of pending handshakes, at a constant amortised cost.
    fn forget_ended_handshakes(&mut self) {
        const SLACK: usize = 64;
        if self.handshakes.queue.len() > 2 * self.handshakes.pending + SLACK {
            let mut queue = std::mem::take(&mut self.handshakes.queue);
            queue.retain(|&conn| self.is_in_handshake(conn));
            self.handshakes.queue = queue;
        }
    }

    fn is_in_handshake(&mut self, conn: LocalConnId) -> bool {
        self.conns.get(conn).is_some_and(|conn| conn.is_in_handshake())
    }
}
