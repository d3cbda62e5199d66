//! Connections whose token has expired are closed.

use std::collections::BTreeMap;

use crate::budget::{self, Budget};
use crate::ids::Slot;
use crate::ledger::CloseReason;
use crate::limits::TOKEN_EXPIRED_MS;
use crate::state::ConnState;
use crate::time::{Millis, Tick};
use crate::wheel::Wheel;

use super::Shard;

pub(super) struct TokenExpiries {
    wheel: Wheel,
    /// Connections that are open beyond the expiry, because a renewal may be under way, and until when.
    postponed: BTreeMap<Slot, Millis>,
}

impl TokenExpiries {
    pub(super) fn new(now: Tick) -> Self {
        Self { wheel: Wheel::new(now), postponed: BTreeMap::new() }
    }

    /// As [`Wheel::with_present_due`].
    pub(super) fn with_present_due(now: Tick) -> Self {
        Self { wheel: Wheel::with_present_due(now), postponed: BTreeMap::new() }
    }

    /// The token of `slot` expires at `at`. A later call moves that.
    pub(super) fn arm(&mut self, slot: Slot, at: Tick) {
        self.wheel.arm(slot, at);
        self.postponed.remove(&slot);
    }

    /// No token of `slot` expires.
    pub(super) fn disarm(&mut self, slot: Slot) {
        self.wheel.disarm(slot);
        self.postponed.remove(&slot);
    }

    /// When the token of `slot` expires. One that has expired is looked at again then.
    pub(super) fn deadline(&self, slot: Slot) -> Option<Tick> {
        self.wheel.deadline(slot)
    }

    pub(super) fn is_due(&self, now: Tick) -> bool {
        self.wheel.is_due(now)
    }

    pub(super) fn next_tick(&self) -> Option<Tick> {
        self.wheel.next_tick()
    }

    fn poll_expired(&mut self, now: Tick, budget: &mut Budget) -> Option<Slot> {
        self.wheel.poll_expired(now, budget)
    }

    /// Looks at `slot`, whose token has expired, again in the next tick.
    fn look_again(&mut self, slot: Slot, now: Tick) {
        self.wheel.arm(slot, Tick(now.0 + 1));
    }

    /// Whether `slot`, whose token has expired, may wait for its renewal: for `most_ms` since it was first asked.
    fn may_wait(&mut self, slot: Slot, now: Millis, most_ms: u32) -> bool {
        now < *self.postponed.entry(slot).or_insert_with(|| now.after(most_ms.into()))
    }
}

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
            if self.has_unread(slot) || self.awaits_renewal(slot) {
                self.token_expiries.look_again(slot, now);
                continue;
            }
            budget.spend(budget::CLOSE);
            let hint = self.jitter.within(TOKEN_EXPIRED_MS);
            self.close_with_hint(slot, CloseReason::TokenExpired, "", Some(hint));
        }
    }

    /// Whether logic has a renewal of `slot`, or one may be in the input that waits for an answer. A client that sends refused
    /// renewals or other messages one behind the other stays no longer for that than the time of a handshake.
    fn awaits_renewal(&mut self, slot: Slot) -> bool {
        let conn = &self.conns[slot];
        let holds_more = conn.input.as_ref().is_some_and(|input| !input.bytes.is_empty());
        let may_renew = matches!(conn.state, ConnState::Renewing { .. })
            || (conn.is_protocol_2 && conn.awaits_answer() && holds_more);
        let (now, most_ms) = (self.context.now, self.context.limits.handshake_ms);
        may_renew && self.token_expiries.may_wait(slot, now, most_ms)
    }
}
