//! The drain: no new clients, close notices spread over a period, and the report that all clients are gone. Clients
//! that are moved off get the same notices.

use crate::budget::{self, Budget};
use crate::ledger::CloseReason;
use crate::limits::GATHERED_FIRST_MS;
use crate::message::Report;

use super::Shard;
use super::pacing::{DrainPhase, NoticeOrder, PacedNotices};

impl Shard {
    pub(super) fn drain(&mut self, over_ms: u32, retry_after_ms: u32) {
        if self.drain == DrainPhase::Serving {
            self.drain = DrainPhase::Draining;
        }
        self.begin_notices(None, over_ms, retry_after_ms);
        self.report_drained();
    }

    pub(super) fn move_off(&mut self, most: Option<u64>, over_ms: u32, retry_after_ms: u32) {
        if !self.is_draining() {
            self.begin_notices(most, over_ms, retry_after_ms);
        }
    }

    fn begin_notices(&mut self, most: Option<u64>, over_ms: u32, retry_after_ms: u32) {
        // Pushes that came before the close notice are sent before it.
        let now = self.context.now;
        let behind_pushes_until =
            if self.is_gathering() { now.after(GATHERED_FIRST_MS) } else { now };
        self.end_all_windows();
        let order = NoticeOrder { most, over_ms, retry_after_ms };
        let times = (now, behind_pushes_until);
        self.pacing.begin_notices(order, self.conns.len() as u64, self.conns.end(), times);
    }

    /// Whether notices wait for the pushes of gathering windows, which may not have been offered to all connections
    /// yet.
    pub(super) fn has_to_wait_for_pushes(&self, notices: &PacedNotices) -> bool {
        (self.has_pushes() || self.has_crowds()) && notices.wait_for_pushes(self.context.now)
    }

    /// Closes connections whose notices are due.
    pub(super) fn give_due_notices(&mut self, budget: &mut Budget) {
        let waits = |notices: &PacedNotices| self.has_to_wait_for_pushes(notices);
        if self.pacing.notices.as_ref().is_some_and(waits) {
            return;
        }
        let Some(mut notices) = self.pacing.notices.take() else { return };
        while budget.is_left()
            && let Some(slot) = notices.next_slot()
        {
            budget.spend(1);
            if self.conns.in_slot(slot).is_some_and(|conn| notices.concerns(conn)) {
                budget.spend(budget::CLOSE);
                notices.give();
                let retry_after_ms = notices.retry_after_ms();
                let hint = (retry_after_ms > 0).then(|| self.jitter.within(0..=retry_after_ms));
                self.close_with_hint(slot, CloseReason::Draining, "", hint);
            }
        }
        self.pacing.put_back_notices(notices);
    }

    /// Reports, once, that a draining shard has no connection left.
    pub(super) fn report_drained(&mut self) {
        if self.drain == DrainPhase::Draining && self.conns.len() == 0 {
            self.drain = DrainPhase::Drained;
            self.reports.push(Report::Drained { shard: self.context.shard });
        }
    }
}
