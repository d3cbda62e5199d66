//! Work that is spread over time: paced broadcasts, and the close notices of a drain. Both go over the slab
//! with a cursor, in steps of [`PACE_MS`].

use std::collections::VecDeque;

use crate::ids::{CallId, Slot};
use crate::ledger::Tally;
use crate::limits::PACE_MS;
use crate::message::Push;
use crate::time::Millis;

#[derive(Default)]
pub(super) struct Pacing {
    /// When the next step is due.
    next_step: Millis,
    pub(super) broadcasts: VecDeque<PacedBroadcast>,
    pub(super) notices: Option<PacedNotices>,
}

/// A broadcast that is under way.
pub(super) struct PacedBroadcast {
    call: CallId,
    push: Push,
    /// What became of it so far.
    pub(super) tally: Tally,
    next: Slot,
    connections_per_second: u32,
    /// Thousandths of a connection that may be visited now.
    credit: u64,
    since: Millis,
}

/// How far the drain of a shard is.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum DrainPhase {
    #[default]
    Serving,
    /// No connection is accepted any more, and those there are get their close notices.
    Draining,
    /// The last connection is gone, and control was told.
    Drained,
}

/// The close notices of a drain that is under way.
pub(super) struct PacedNotices {
    next: Slot,
    /// Connections there were when it began, and how many of them were given a close notice.
    connections: u64,
    given: u64,
    /// How many are due by the present step, those given included.
    due: u64,
    since: Millis,
    over_ms: u32,
    pub(super) retry_after_ms: u32,
}

impl Pacing {
    pub(super) fn new(now: Millis) -> Self {
        Self { next_step: now, ..Self::default() }
    }

    /// Begins a step, if one is due. Then the next one is due [`PACE_MS`] from `now`.
    pub(super) fn begin_step(&mut self, now: Millis) {
        if now < self.next_step {
            return;
        }
        self.next_step = now.after(PACE_MS);
        for broadcast in &mut self.broadcasts {
            broadcast.begin_step(now);
        }
        if let Some(notices) = &mut self.notices {
            notices.begin_step(now);
        }
    }

    /// Something of the present step is left to do.
    pub(super) fn has_work(&self, end: Slot) -> bool {
        self.broadcasts.iter().any(|broadcast| broadcast.has_credit() && broadcast.next < end)
            || self.notices.as_ref().is_some_and(|notices| notices.has_due() && notices.next < end)
    }

    /// When the next step is due, if anything is under way.
    pub(super) fn next_step(&self) -> Option<Millis> {
        let is_under_way = !self.broadcasts.is_empty() || self.notices.is_some();
        is_under_way.then_some(self.next_step)
    }

    pub(super) fn begin_broadcast(&mut self, broadcast: PacedBroadcast, now: Millis) {
        if self.broadcasts.is_empty() {
            self.next_step = now;
        }
        self.broadcasts.push_back(broadcast);
    }
}

impl PacedBroadcast {
    pub(super) fn new(call: CallId, push: Push, connections_per_second: u32, now: Millis) -> Self {
        Self {
            call,
            push,
            tally: Tally::default(),
            next: Slot(0),
            connections_per_second,
            // The first connection is visited at once.
            credit: 1000,
            since: now,
        }
    }

    pub(super) fn call(&self) -> CallId {
        self.call
    }

    pub(super) fn push(&self) -> &Push {
        &self.push
    }

    /// Adds credit for the time since the last step.
    fn begin_step(&mut self, now: Millis) {
        let elapsed = now.0 - self.since.0;
        self.since = now;
        let speed = u64::from(self.connections_per_second);
        // A core that was held up makes up for one second at most.
        self.credit = (self.credit + elapsed.min(1000) * speed).min(1000 * speed.max(1));
    }

    fn has_credit(&self) -> bool {
        self.credit >= 1000
    }

    /// The next slot to look at in this step, of those below `end`.
    pub(super) fn next_slot(&mut self, end: Slot) -> Option<Slot> {
        (self.has_credit() && self.next < end).then(|| {
            let slot = self.next;
            self.next = slot.next();
            slot
        })
    }

    /// The connection in the slot that was looked at takes pushes, and counts against the speed.
    pub(super) fn spend(&mut self) {
        self.credit -= 1000;
    }

    pub(super) fn is_under_way(&self, end: Slot) -> bool {
        self.next < end
    }
}

impl PacedNotices {
    pub(super) fn new(connections: u64, over_ms: u32, retry_after_ms: u32, now: Millis) -> Self {
        let mut notices = Self {
            next: Slot(0),
            connections,
            given: 0,
            due: 0,
            since: now,
            over_ms,
            retry_after_ms,
        };
        notices.begin_step(now);
        notices
    }

    fn begin_step(&mut self, now: Millis) {
        let elapsed = now.0 - self.since.0;
        self.due = match u64::from(self.over_ms) {
            over_ms if elapsed >= over_ms => u64::MAX,
            over_ms => self.connections * elapsed / over_ms,
        };
    }

    fn has_due(&self) -> bool {
        self.given < self.due
    }

    /// The next slot to look at while notices are due, of those below `end`.
    pub(super) fn next_slot(&mut self, end: Slot) -> Option<Slot> {
        (self.has_due() && self.next < end).then(|| {
            let slot = self.next;
            self.next = slot.next();
            slot
        })
    }

    /// The connection in the slot that was looked at is given a notice.
    pub(super) fn give(&mut self) {
        self.given += 1;
    }

    pub(super) fn is_under_way(&self, end: Slot) -> bool {
        self.next < end
    }
}
