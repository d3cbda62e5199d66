//! Connections whose token has expired are closed.

use crate::budget::{self, Budget};
use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::limits::TOKEN_EXPIRED_MS;
use crate::time::Tick;

use super::Shard;

impl Shard {
    /// The token of `slot` expires in `millis`; `None`: never. A later call moves that.
    pub(super) fn set_token_expiry(&mut self, slot: Slot, millis: Option<u64>) {
        match millis {
            Some(millis) => {
                let at = self.context.now.after(millis).tick_at_or_after();
                self.token_expiries.arm(slot, at);
            }
            None => self.token_expiries.disarm(slot),
        }
    }

    /// Milliseconds until the token of `slot` has expired, cut to what a `u32` can hold; `None`: it does not.
    pub(super) fn token_expires_in(&self, slot: Slot) -> Option<u32> {
        let at = self.token_expiries.deadline(slot)?.begin();
        Some(u32::try_from(at.0.saturating_sub(self.context.now.0)).unwrap_or(u32::MAX))
    }

    pub(super) fn close_expired_tokens(&mut self, budget: &mut Budget) {
        let now = self.context.now.tick();
        while let Some(slot) = self.token_expiries.poll_expired(now, budget) {
            if self.has_unread(slot) {
                // A renewal may be in it.
                self.token_expiries.arm(slot, Tick(now.0 + 1));
                continue;
            }
            budget.spend(budget::CLOSE);
            let hint = self.jitter.within(TOKEN_EXPIRED_MS);
            self.close_with_hint(slot, CloseReason::TokenExpired, "", Some(hint));
        }
    }
}
