//! Members that visit further rooms (protocol 2): each in turn enters one, stays for a while and leaves again.
//!
//! A visitor is expected to receive exactly the messages of its room between the answers to both requests. The messages
//! are sent at regular times, so it also shows if some are missing before the first or after the last one received.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::clients::member::Member;
use crate::clock::now_ns;
use crate::crowd::Crowd;
use crate::receiver::Receiver;

/// How members visit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct VisitPlan {
    /// Time between the beginnings of two visits.
    pub interval_ns: u64,
    /// How long each visitor stays, at least.
    pub stay_ns: u64,
    /// Time between two messages of a further room.
    pub period_ns: u64,
}

/// The visits under way.
pub(super) struct Visits {
    plan: VisitPlan,
    due_ns: u64,
    next: usize,
    /// In the order of their end.
    under_way: VecDeque<Visit>,
    /// Indexes, at the receiver, of members that may not begin another visit.
    busy: HashSet<usize>,
    is_over: bool,
}

#[derive(Clone, Copy)]
struct Visit {
    leave_ns: u64,
    /// Its index at the receiver.
    index: usize,
    room: usize,
}

impl Visits {
    pub(super) fn start(plan: VisitPlan) -> Self {
        let (next, under_way, busy) = (0, VecDeque::new(), HashSet::new());
        Self { plan, due_ns: now_ns(), next, under_way, busy, is_over: false }
    }

    /// No more visits begin; visitors that are present stay.
    pub(super) fn stop(&mut self) {
        self.is_over = true;
    }

    /// Does what is due; returns when the next event is.
    pub(super) fn act(
        &mut self,
        receiver: &mut Receiver,
        crowd: &Crowd,
        members: &[Member],
    ) -> u64 {
        if self.is_over || members.is_empty() {
            return u64::MAX;
        }
        let now_ns = now_ns();
        while self.under_way.front().is_some_and(|visit| visit.leave_ns <= now_ns) {
            let visit = self.under_way.pop_front().expect("there is one");
            self.leave(visit, receiver, crowd, now_ns);
        }
        while self.due_ns <= now_ns {
            self.due_ns += self.plan.interval_ns;
            let may = |at: &usize| {
                let Member { index, .. } = members[*at % members.len()];
                receiver.is_read(index) && !self.busy.contains(&index)
            };
            let Some(at) = (self.next..self.next + members.len()).find(may) else { continue };
            let Member { number, index } = members[at % members.len()];
            self.next = at % members.len() + 1;
            let room = number % crowd.further_of;
            receiver.begin_visit(index, room, &crowd.further_room(room), self.plan.period_ns);
            self.busy.insert(index);
            let leave_ns = now_ns + self.plan.stay_ns;
            self.under_way.push_back(Visit { leave_ns, index, room });
        }
        let next_ns = self.under_way.front().map_or(u64::MAX, |visit| visit.leave_ns);
        next_ns.min(self.due_ns)
    }

    fn leave(&mut self, visit: Visit, receiver: &mut Receiver, crowd: &Crowd, now_ns: u64) {
        let Visit { index, room, .. } = visit;
        if receiver.end_visit(index, room, &crowd.further_room(room)) {
            // The member may begin another visit: the answers come in the order of the requests.
            self.busy.remove(&index);
        } else {
            // It has not entered yet.
            self.under_way.push_back(Visit { leave_ns: now_ns + self.plan.stay_ns, ..visit });
        }
    }
}
