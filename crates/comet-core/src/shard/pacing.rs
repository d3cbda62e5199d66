//! Work that is spread over time: paced broadcasts, and the close notices of a drain and of clients that are moved off.
//! Both move a cursor over the slab, in steps of [`PACE_MS`].

use std::collections::VecDeque;
use std::iter;
use std::ops::Range;

use crate::conn::Conn;
use crate::hand_over::{ArrivedPaced, append_range};
use crate::ids::{CallId, Slot};
use crate::ledger::Tally;
use crate::limits::{PACE_MS, PACED_MAX};
use crate::message::Push;
use crate::time::Millis;

use super::push_forms::EncodedForms;

pub(super) struct Pacing {
    /// When the next step is due.
    next_step: Millis,
    pub(super) broadcasts: VecDeque<PacedBroadcast>,
    /// The latest calls that were cancelled before they arrived, because cancel orders overtake pushes.
    cancelled: VecDeque<CallId>,
    pub(super) notices: Option<PacedNotices>,
    /// Where the cursor of the last order stopped. The next order continues from there, so it does not close the
    /// clients that took the slots of those closed before.
    notices_from: Slot,
}

/// A broadcast under way.
pub(super) struct PacedBroadcast {
    call: CallId,
    push: Push,
    /// The forms of the frame that clients have needed.
    pub(super) made: EncodedForms,
    /// What became of it so far.
    pub(super) tally: Tally,
    next: Slot,
    /// Slots beyond `next` whose connections got the broadcast in another process: ranges from the first slot up to the
    /// second, in ascending order.
    visited: VecDeque<(Slot, Slot)>,
    connections_per_second: u32,
    /// The credit, in thousandths of a connection, for visits at this moment.
    credit: u64,
    since: Millis,
}

/// The phase of a shard's drain.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum DrainPhase {
    #[default]
    Serving,
    /// No connection is accepted any more, and the present ones get their close notices.
    Draining,
    /// The last connection is gone, and control has been told.
    Drained,
}

/// Which connections get close notices, and when.
#[derive(Clone, Copy)]
pub(super) struct NoticeOrder {
    /// The number of authenticated connections; `None`: all connections.
    pub(super) most: Option<u64>,
    /// The notices are spread evenly over this time.
    pub(super) over_ms: u32,
    /// The longest time to wait that a notice may name; 0: none.
    pub(super) retry_after_ms: u32,
}

/// The close notices of an order under way.
pub(super) struct PacedNotices {
    order: NoticeOrder,
    next: Slot,
    /// The number of slots left. The cursor goes around once, over the slots that existed when the order came.
    slots_left: u32,
    end: Slot,
    /// The number of notices for the whole period, and the number given so far.
    expected: u64,
    given: u64,
    /// The number of notices due by the present step, including those given.
    due: u64,
    since: Millis,
    /// Until this time no notice is given while pushes are under way, because those of windows that the order has ended
    /// are among them.
    behind_pushes_until: Millis,
}

impl Pacing {
    pub(super) fn new(now: Millis) -> Self {
        let (broadcasts, cancelled) = (VecDeque::new(), VecDeque::new());
        Self { next_step: now, broadcasts, cancelled, notices: None, notices_from: Slot(0) }
    }

    /// Ends the broadcast of `call`, even one that has not arrived yet. Returns its tally.
    pub(super) fn cancel(&mut self, call: CallId) -> Tally {
        let at = self.broadcasts.iter().position(|broadcast| broadcast.call() == call);
        if let Some(broadcast) = at.and_then(|at| self.broadcasts.remove(at)) {
            return broadcast.tally;
        }
        if self.cancelled.len() >= PACED_MAX {
            self.cancelled.pop_front();
        }
        self.cancelled.push_back(call);
        Tally::default()
    }

    /// Whether the broadcast of `call`, which has just arrived, was cancelled before.
    pub(super) fn is_cancelled(&self, call: CallId) -> bool {
        self.cancelled.contains(&call)
    }

    /// Begins a step if one is due. The next one is due [`PACE_MS`] after `now`.
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

    /// Whether the present step has work left. Notices that wait for pushes do not count.
    pub(super) fn has_work(&self, end: Slot, waits: impl Fn(&PacedNotices) -> bool) -> bool {
        self.broadcasts.iter().any(|broadcast| broadcast.has_credit() && broadcast.next < end)
            || self.notices.as_ref().is_some_and(|notices| notices.has_due() && !waits(notices))
    }

    /// When the next step is due, if anything is under way.
    pub(super) fn next_step(&self) -> Option<Millis> {
        let is_under_way = !self.broadcasts.is_empty() || self.notices.is_some();
        is_under_way.then_some(self.next_step)
    }

    /// Carries out `order`, which replaces the one before. There are `connections`, in slots below `end`.
    pub(super) fn begin_notices(
        &mut self,
        order: NoticeOrder,
        connections: u64,
        end: Slot,
        (now, behind_pushes_until): (Millis, Millis),
    ) {
        if let Some(notices) = &self.notices {
            self.notices_from = notices.next;
        }
        let from = self.notices_from;
        let notices = PacedNotices::new(order, connections, from, end, now);
        let until = behind_pushes_until
            .max(self.notices.as_ref().map_or(now, |former| former.behind_pushes_until));
        let notices = PacedNotices { behind_pushes_until: until, ..notices };
        self.put_back_notices(notices);
    }

    /// Keeps `notices` while they are under way.
    pub(super) fn put_back_notices(&mut self, notices: PacedNotices) {
        self.notices_from = notices.next;
        self.notices = notices.is_under_way().then_some(notices);
    }

    /// The number of notices that the order under way has still to give.
    pub(super) fn notices_left(&self) -> u64 {
        let left = |notices: &PacedNotices| notices.expected.saturating_sub(notices.given);
        self.notices.as_ref().map_or(0, left)
    }

    /// Continues the broadcasts of another process.
    pub(super) fn take_over(&mut self, broadcasts: Vec<ArrivedPaced>, now: Millis) {
        for arrived in broadcasts {
            self.begin_broadcast(PacedBroadcast::arrived(arrived, now), now);
        }
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
            made: EncodedForms::default(),
            tally: Tally::default(),
            next: Slot(0),
            visited: VecDeque::new(),
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
        // A core that was held up makes up for at most one second.
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
            self.skip_visited();
            slot
        })
    }

    fn skip_visited(&mut self) {
        while let Some((_, end)) = self.visited.pop_front_if(|(first, _)| *first <= self.next) {
            self.next = self.next.max(end);
        }
    }

    /// The connection in the last slot takes pushes, so it uses credit.
    pub(super) fn spend(&mut self) {
        self.credit -= 1000;
    }

    pub(super) fn is_under_way(&self, end: Slot) -> bool {
        self.next < end
    }

    /// The broadcast for another process. `slots` are those of the connections that are handed over, in ascending
    /// order.
    pub(super) fn departing(&self, slots: &[Slot]) -> ArrivedPaced {
        // Forms of the frame are encoded anew in the other process, and the pacing steps begin anew.
        let Self { call, push, made: _, tally, next, visited, connections_per_second, .. } = self;
        let mut ranges = Vec::new();
        for (first, end) in iter::once((Slot(0), *next)).chain(visited.iter().copied()) {
            let place = |end: Slot| slots.partition_point(|&slot| slot < end) as u32;
            append_range(&mut ranges, place(first)..place(end));
        }
        ArrivedPaced {
            call: *call,
            push: push.clone(),
            connections_per_second: *connections_per_second,
            credit: self.credit,
            visited: ranges,
            tally: *tally,
        }
    }

    fn arrived(arrived: ArrivedPaced, now: Millis) -> Self {
        let ArrivedPaced { call, push, connections_per_second, credit, visited, tally } = arrived;
        let visited = visited.into_iter().map(|Range { start, end }| (Slot(start), Slot(end)));
        let mut broadcast = Self {
            tally,
            visited: visited.collect(),
            credit,
            ..Self::new(call, push, connections_per_second, now)
        };
        broadcast.skip_visited();
        broadcast
    }
}

impl PacedNotices {
    fn new(order: NoticeOrder, connections: u64, from: Slot, end: Slot, now: Millis) -> Self {
        let mut notices = Self {
            order,
            next: if from < end { from } else { Slot(0) },
            slots_left: end.0,
            end,
            expected: order.most.unwrap_or(connections),
            given: 0,
            due: 0,
            since: now,
            behind_pushes_until: now,
        };
        notices.begin_step(now);
        notices
    }

    fn begin_step(&mut self, now: Millis) {
        let elapsed = now.0 - self.since.0;
        self.due = match u64::from(self.order.over_ms) {
            over_ms if elapsed >= over_ms => self.order.most.unwrap_or(u64::MAX),
            over_ms => {
                let due = u128::from(self.expected) * u128::from(elapsed) / u128::from(over_ms);
                u64::try_from(due).unwrap_or(u64::MAX)
            }
        };
    }

    fn has_due(&self) -> bool {
        self.given < self.due && self.slots_left > 0
    }

    /// The next slot to look at while notices are due.
    pub(super) fn next_slot(&mut self) -> Option<Slot> {
        self.has_due().then(|| {
            let slot = self.next;
            self.next = if slot.next() < self.end { slot.next() } else { Slot(0) };
            self.slots_left -= 1;
            slot
        })
    }

    /// Whether the notices wait at `now`, if pushes are under way.
    pub(super) fn wait_for_pushes(&self, now: Millis) -> bool {
        now < self.behind_pushes_until
    }

    /// Whether the order is meant for `conn`.
    pub(super) fn concerns(&self, conn: &Conn) -> bool {
        if self.order.most.is_some() { conn.is_live() } else { conn.is_open() }
    }

    /// The connection in the last slot gets a notice.
    pub(super) fn give(&mut self) {
        self.given += 1;
    }

    pub(super) fn retry_after_ms(&self) -> u32 {
        self.order.retry_after_ms
    }

    fn is_under_way(&self) -> bool {
        self.slots_left > 0 && self.order.most.is_none_or(|most| self.given < most)
    }
}
