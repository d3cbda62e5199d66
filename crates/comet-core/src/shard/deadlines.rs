//! Deadlines of connections: handshake, heartbeat, write and linger. Event streams have no heartbeats: theirs is the time of the
//! next comment.
//!
//! They count active time (see [`ActiveClock`](crate::ActiveClock)). A deadline that the peer may have kept is
//! postponed while what would show that waits in the driver, and while the connection waits for logic or a home.
//! It is postponed for no longer than its own time once more, so nobody prolongs it forever. Input that is held for a hand-over is read in
//! any case before a deadline ends its connection. Where a client catches up in a room,
//! each part that it has read counts as a heartbeat.

use crate::budget::Budget;
use crate::canary::Canary;
use crate::ids::{ConnId, Slot};
use crate::ledger::CloseReason;
use crate::limits::{EVENT_COMMENT_MS, TICK_MS};
use crate::state::ConnState;
use crate::time::Tick;
use crate::transport::Transport;

use super::Shard;
use super::connections::write_deadline;

/// How soon a deadline that was postponed is looked at again.
const LOOK_AGAIN: u32 = 250 / TICK_MS as u32;

/// A deadline that has passed.
struct Overdue {
    reason: CloseReason,
    deadline: Tick,
    /// The time it ended, milliseconds.
    limit_ms: u32,
}

impl Shard {
    /// Puts off the deadlines that have passed of those connections for which `has_backlog` is true: input of
    /// the peer, or the progress of a send, waits in the driver or in the kernel. It is asked about no other
    /// connections.
    pub fn postpone_overdue(&mut self, mut has_backlog: impl FnMut(ConnId) -> bool) {
        if Canary::UnreadInput.is_released() {
            return;
        }
        let mut expired = self.conns.take_expired();
        expired.retain(|&slot| {
            let is_postponed = self.conns.is_taken(slot)
                && self.overdue(slot).is_some_and(|overdue| self.may_wait(&overdue))
                && has_backlog(self.conns.id(slot));
            if is_postponed {
                self.postpone(slot);
            }
            !is_postponed
        });
        self.conns.return_expired(expired);
    }

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
        let conn = &self.conns[slot];
        if matches!(conn.state, ConnState::Closed) {
            return;
        }
        if let Some(overdue) = self.overdue(slot) {
            let is_write = overdue.reason == CloseReason::WriteTimeout;
            // While its input is held, it is the server that is late, not the peer.
            let is_held = self.holds_input(slot) && self.may_wait(&overdue);
            if !is_write && (is_held || self.has_unread(slot)) {
                return self.postpone(slot);
            }
            self.close(slot, overdue.reason, "");
            if is_write {
                self.abort(slot);
            }
        } else if !conn.is_open() && conn.deadline <= self.context.tick() {
            self.abort(slot);
        } else if self.is_live_stream(slot) && conn.deadline <= self.context.tick() {
            self.comment(slot);
        } else {
            self.conns.arm(slot, &self.context);
        }
    }

    /// The deadline of `slot` that the peer has not kept, as far as the shard knows.
    fn overdue(&self, slot: Slot) -> Option<Overdue> {
        let (conn, limits, now) = (&self.conns[slot], &self.context.limits, self.context.tick());
        if matches!(conn.state, ConnState::Closed) {
            return None;
        }
        let write = write_deadline(conn, &self.context);
        // To a client that has left nothing is sent any more.
        if conn.outbox.is_sending() && write <= now && !conn.has_peer_left {
            let reason = CloseReason::WriteTimeout;
            return Some(Overdue { reason, deadline: write, limit_ms: limits.write_ms });
        }
        if self.is_live_stream(slot) {
            return None;
        }
        let (reason, limit_ms) = if conn.is_live() {
            (CloseReason::HeartbeatTimeout, self.heartbeat_ms(slot))
        } else {
            (CloseReason::HandshakeTimeout, limits.handshake_ms)
        };
        let is_overdue = conn.is_open() && conn.deadline <= now;
        is_overdue.then_some(Overdue { reason, deadline: conn.deadline, limit_ms })
    }

    /// Whether a deadline may be postponed once more.
    fn may_wait(&self, overdue: &Overdue) -> bool {
        let last = overdue.deadline.0.saturating_add(overdue.limit_ms.div_ceil(TICK_MS as u32));
        self.context.tick().0 < last
    }

    /// Looks at `slot` again a little later, and in time for its other deadline.
    fn postpone(&mut self, slot: Slot) {
        let (conn, now) = (&self.conns[slot], self.context.tick());
        let write = conn.outbox.is_sending().then(|| write_deadline(conn, &self.context));
        let others = [Some(conn.deadline), write].into_iter().flatten().filter(|at| *at > now);
        let again = Tick(now.0 + LOOK_AGAIN);
        let at = others.fold(again, Tick::min);
        self.conns.look_again(slot, at);
    }

    /// Moves the deadline of `slot` to `millis` from now.
    pub(super) fn set_deadline(&mut self, slot: Slot, millis: u32) {
        self.conns.set_deadline(slot, self.context.deadline(millis), &self.context);
    }

    /// Time between the heartbeats of `slot`, or the comments that it gets in place of them.
    pub(super) fn heartbeat_ms(&self, slot: Slot) -> u32 {
        match self.conns[slot].heartbeat_ms {
            _ if self.conns[slot].transport == Transport::EventStream => EVENT_COMMENT_MS,
            0 => self.context.limits.heartbeat_ms,
            millis => millis,
        }
    }
}
