//! Work that is spread over time: paced broadcasts, and the close notices of a drain and of clients that are moved off.
//! Both go over the slab with a cursor, in steps of [`PACE_MS`].

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

use super::items::MadeFrames;

pub(super) struct Pacing {
    /// When the next step is due.
    next_step: Millis,
    pub(super) broadcasts: VecDeque<PacedBroadcast>,
    /// The latest that were cancelled and are not here: orders overtake pushes.
    cancelled: VecDeque<CallId>,
    pub(super) notices: Option<PacedNotices>,
    /// Where the cursor of the last order stopped. The next order goes on from there, so it does not meet the clients
    /// that took the place of those it has closed.
    notices_from: Slot,
}

/// A broadcast that is under way.
pub(super) struct PacedBroadcast {
    call: CallId,
    push: Push,
    /// The frame in other forms, once a client wanted them.
    pub(super) made: MadeFrames,
    /// What became of it so far.
    pub(super) tally: Tally,
    next: Slot,
    /// Slots further on whose connections had it in another process: from the first up to the second, in ascending order.
    visited: VecDeque<(Slot, Slot)>,
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

/// Who is to get close notices, and when.
#[derive(Clone, Copy)]
pub(super) struct NoticeOrder {
    /// So many authenticated connections; `None`: all connections.
    pub(super) most: Option<u64>,
    /// The notices are spread evenly over this time.
    pub(super) over_ms: u32,
    /// The longest time to wait that a notice names; 0: none.
    pub(super) retry_after_ms: u32,
}

/// The close notices of an order that is under way.
pub(super) struct PacedNotices {
    order: NoticeOrder,
    next: Slot,
    /// Slots to look at. The cursor goes around once, over those that there were when the order came.
    slots_left: u32,
    end: Slot,
    /// Notices that are to be given over the whole time, and those that were given.
    expected: u64,
    given: u64,
    /// How many are due by the present step, those given included.
    due: u64,
    since: Millis,
    /// Until when none is given while pushes are under way. Those of windows that the order has ended are among them.
    behind_pushes_until: Millis,
}

impl Pacing {
    pub(super) fn new(now: Millis) -> Self {
        let (broadcasts, cancelled) = (VecDeque::new(), VecDeque::new());
        Self { next_step: now, broadcasts, cancelled, notices: None, notices_from: Slot(0) }
    }

    /// Ends the broadcast of `call`, also where it is still to come. Returns what became of it.
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

    /// Whether the broadcast of `call`, which has come, was cancelled before.
    pub(super) fn is_cancelled(&self, call: CallId) -> bool {
        self.cancelled.contains(&call)
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

    /// Something of the present step is left to do. Notices may have to wait for pushes.
    pub(super) fn has_work(&self, end: Slot, waits: impl Fn(&PacedNotices) -> bool) -> bool {
        self.broadcasts.iter().any(|broadcast| broadcast.has_credit() && broadcast.next < end)
            || self.notices.as_ref().is_some_and(|notices| notices.has_due() && !waits(notices))
    }

    /// When the next step is due, if anything is under way.
    pub(super) fn next_step(&self) -> Option<Millis> {
        let is_under_way = !self.broadcasts.is_empty() || self.notices.is_some();
        is_under_way.then_some(self.next_step)
    }

    /// Carries out `order` in the place of the one before. There are `connections`, in slots below `end`.
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

    /// Keeps `notices` as long as they are under way.
    pub(super) fn put_back_notices(&mut self, notices: PacedNotices) {
        self.notices_from = notices.next;
        self.notices = notices.is_under_way().then_some(notices);
    }

    /// Notices that the order under way is still to give.
    pub(super) fn notices_left(&self) -> u64 {
        let left = |notices: &PacedNotices| notices.expected.saturating_sub(notices.given);
        self.notices.as_ref().map_or(0, left)
    }

    /// Goes on with the broadcasts of another process.
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
            made: MadeFrames::default(),
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
            self.skip_visited();
            slot
        })
    }

    fn skip_visited(&mut self) {
        while let Some((_, end)) = self.visited.pop_front_if(|(first, _)| *first <= self.next) {
            self.next = self.next.max(end);
        }
    }

    /// The connection in the slot that was looked at takes pushes, and counts against the speed.
    pub(super) fn spend(&mut self) {
        self.credit -= 1000;
    }

    pub(super) fn is_under_way(&self, end: Slot) -> bool {
        self.next < end
    }

    /// It, for another process. `slots` are those of the connections that go there, in ascending order.
    pub(super) fn departing(&self, slots: &[Slot]) -> ArrivedPaced {
        // Forms of the frame are made anew, and its steps begin anew.
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

    /// Whether they wait at `now`, if pushes are under way.
    pub(super) fn wait_for_pushes(&self, now: Millis) -> bool {
        now < self.behind_pushes_until
    }

    /// Whether the order is about `conn`.
    pub(super) fn concerns(&self, conn: &Conn) -> bool {
        if self.order.most.is_some() { conn.is_live() } else { conn.is_open() }
    }

    /// The connection in the slot that was looked at is given a notice.
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
