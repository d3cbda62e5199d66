//! The calls under way: the sums of their reports, and how many reports are still to come.
//!
//! A call is complete when a report has come for every message that was sent, and as many partial tallies
//! as those reports announced. A partial tally may overtake its announcement: it comes from another thread.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use comet_core::{CallId, ConnPage, Counters, HistoryPage, Millis, Report, ShardId, Tally, Top};

use crate::callers::Callers;
use crate::queues::CallerId;

/// Calls that may be under way at once. Each holds its frame, so this also bounds memory; a caller
/// beyond it is refused at once.
pub const CALLS_MAX: usize = 16_384;

/// Most calls of one caller under way at once. So it takes four callers to use up all calls. goim's job has at most 32,
/// a stream of pushes 1,024.
pub const CALLER_CALLS_MAX: usize = CALLS_MAX / 4;

/// The sum of the reports of a call.
#[derive(Debug, Default)]
pub struct CallResult {
    /// The tally of the push.
    pub tally: Tally,
    /// Connections that paced broadcasts are going to visit.
    pub scheduled: u64,
    /// Shards that refused a paced broadcast.
    pub busy: u32,
    /// Counters of the shards that were asked for a snapshot, in the order of their reports.
    pub counters: Vec<(ShardId, Box<Counters>)>,
    /// Rooms with someone online, and how many: one list for each report, in the order of the reports.
    pub rooms: Vec<Vec<(Arc<str>, u32)>>,
    /// Lists of connections, in the order of their reports; `None` where a shard refused to make one.
    pub connections: Vec<Option<Box<ConnPage>>>,
    /// Top lists, in the same way.
    pub tops: Vec<Option<Box<Top>>>,
    /// The history of a room; `None` inside: the room keeps none.
    pub history: Option<Option<Box<HistoryPage>>>,
}

/// Why a call has no complete result.
#[derive(Debug)]
pub enum CallError {
    /// [`CALLS_MAX`] calls are under way.
    TooManyCalls,
    /// [`CALLER_CALLS_MAX`] calls of this caller are under way.
    TooManyOfCaller,
    /// The shard has ended.
    ShardGone(ShardId),
    /// The shard's inbox had no space in time; other shards may have got their messages.
    InboxFull {
        /// The last shard before whose inbox a message of the call waits.
        shard: ShardId,
        /// The limit of the call.
        waited_ms: u64,
        /// What the reports so far add up to.
        known: Box<CallResult>,
    },
    /// Some reports did not come in time.
    Late {
        /// Reports and announced partial tallies that have not come.
        missing: u64,
        /// The limit of the call.
        waited_ms: u64,
        /// What the reports so far add up to.
        known: Box<CallResult>,
    },
}

impl CallError {
    /// Frees the lists in the partial result.
    pub fn forget_lists(&mut self) {
        if let Self::InboxFull { known, .. } | Self::Late { known, .. } = self {
            known.rooms = Vec::new();
            known.connections = Vec::new();
            known.history = None;
        }
    }
}

/// How a call ended.
pub type Outcome = Result<CallResult, CallError>;

/// A call that ended.
#[derive(Debug)]
pub struct Ended<C> {
    /// Which call.
    pub call: CallId,
    /// What [`Hub::begin`](crate::Hub::begin) was given to keep with it.
    pub caller: C,
    /// How it ended.
    pub outcome: Outcome,
}

struct Open<C> {
    /// Reports still to come for messages that were sent.
    missing: u64,
    /// Announced partial tallies that have not come; negative: partial tallies that came before their announcement.
    partials: i64,
    result: CallResult,
    limit_ms: u64,
    deadline: Millis,
    from: CallerId,
    caller: C,
}

pub(crate) struct Calls<C> {
    open: HashMap<CallId, Open<C>>,
    callers: Callers,
    last: u64,
    /// Calls that ended and were not polled yet.
    ended: VecDeque<Ended<C>>,
}

impl<C> Calls<C> {
    pub(crate) fn new() -> Self {
        let callers = Callers::new(CALLER_CALLS_MAX);
        Self { open: HashMap::new(), callers, last: 0, ended: VecDeque::new() }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn of(&self, caller: CallerId) -> usize {
        self.callers.calls(caller)
    }

    /// Whether another call may begin.
    pub(crate) fn check_room(&self, caller: CallerId) -> Result<(), CallError> {
        if self.open.len() >= CALLS_MAX {
            return Err(CallError::TooManyCalls);
        }
        if !self.callers.has_room(caller) {
            return Err(CallError::TooManyOfCaller);
        }
        Ok(())
    }

    pub(crate) fn runs(&self, call: CallId) -> bool {
        self.open.contains_key(&call)
    }

    /// Numbers the next call after `last`.
    pub(crate) fn go_on_after(&mut self, CallId(last): CallId) {
        self.last = last.max(self.last);
    }

    /// The id of the latest call; 0: there was none.
    pub(crate) fn last(&self) -> CallId {
        CallId(self.last)
    }

    /// An id no call had before.
    pub(crate) fn next_id(&mut self) -> CallId {
        self.last += 1;
        CallId(self.last)
    }

    /// Opens `call`, to be complete after `reports` of them, at least one, within `limit_ms` from `now`.
    pub(crate) fn open(
        &mut self,
        call: CallId,
        reports: u64,
        (now, limit_ms): (Millis, u64),
        (from, caller): (CallerId, C),
    ) {
        debug_assert!(reports > 0, "a call without a report would never end");
        let (result, deadline) = (CallResult::default(), now.after(limit_ms));
        let open = Open { missing: reports, partials: 0, result, limit_ms, deadline, from, caller };
        self.callers.begin(from);
        self.open.insert(call, open);
    }

    /// Adds a report to its call. A report of a call that was given up is ignored. Returns unclaimed reports, and lists
    /// whose call is over.
    pub(crate) fn settle(&mut self, report: Report) -> Option<Report> {
        match report {
            Report::Tally { call, tally, partials, .. } => self.add(call, |open| {
                open.missing -= 1;
                open.partials += i64::from(partials);
                open.result.tally += tally;
            }),
            Report::PartialTally { call, tally, settles, .. } => self.add(call, |open| {
                open.partials -= i64::from(settles);
                open.result.tally += tally;
            }),
            Report::Scheduled { call, connections, .. } => self.add(call, |open| {
                open.missing -= 1;
                open.result.scheduled += connections;
            }),
            Report::Busy { call, .. } => self.add(call, |open| {
                open.missing -= 1;
                open.result.busy += 1;
            }),
            Report::Snapshot { call, shard, counters } => self.add(call, |open| {
                open.missing -= 1;
                open.result.counters.push((shard, counters));
            }),
            // A list may be long: it is not walked here, and the driver frees it.
            Report::Rooms { call, .. } | Report::Connections { call, .. } if !self.runs(call) => {
                return Some(report);
            }
            Report::Rooms { call, rooms } => self.add(call, |open| {
                open.missing -= 1;
                open.result.rooms.push(rooms);
            }),
            Report::Connections { call, page } => self.add(call, |open| {
                open.missing -= 1;
                open.result.connections.push(page);
            }),
            Report::Top { call, top } => self.add(call, |open| {
                open.missing -= 1;
                open.result.tops.push(top);
            }),
            Report::History { call, page } => self.add(call, |open| {
                open.missing -= 1;
                open.result.history = Some(page);
            }),
            unasked => return Some(unasked),
        }
        None
    }

    fn add(&mut self, call: CallId, report: impl FnOnce(&mut Open<C>)) {
        let Some(open) = self.open.get_mut(&call) else { return };
        report(open);
        if open.missing == 0
            && open.partials == 0
            && let Some(Open { result, caller, .. }) = self.remove(call)
        {
            self.ended.push_back(Ended { call, caller, outcome: Ok(result) });
        }
    }

    /// Ends `call`, because a message of it can no longer reach `shard`.
    pub(crate) fn fail(&mut self, call: CallId, shard: ShardId) {
        if let Some(Open { caller, .. }) = self.remove(call) {
            self.ended.push_back(Ended { call, caller, outcome: Err(CallError::ShardGone(shard)) });
        }
    }

    /// Ends the calls whose time is over at `now`, in the order of their ids, with their partial results; `blocked` are
    /// those with a message that still waits before a shard's full inbox. Returns when the next one is due.
    pub(crate) fn end_late(
        &mut self,
        now: Millis,
        blocked: &HashMap<CallId, ShardId>,
    ) -> Option<Millis> {
        let mut late: Vec<_> = self.open.extract_if(|_, open| open.deadline <= now).collect();
        // Callers must not depend on the order of a hash map.
        late.sort_unstable_by_key(|(call, _)| *call);
        late.iter().for_each(|(_, open)| self.callers.end(open.from));
        self.ended.extend(late.into_iter().map(|(call, open)| {
            let Open { missing, partials, result, limit_ms: waited_ms, caller, .. } = open;
            let known = Box::new(result);
            let error = match blocked.get(&call) {
                Some(&shard) => CallError::InboxFull { shard, waited_ms, known },
                None => {
                    let missing = missing.saturating_add_signed(partials);
                    CallError::Late { missing, waited_ms, known }
                }
            };
            Ended { call, caller, outcome: Err(error) }
        }));
        self.open.values().map(|open| open.deadline).min()
    }

    /// Ends `call` without an outcome: its caller has left.
    pub(crate) fn forget(&mut self, call: CallId) {
        self.remove(call);
    }

    fn remove(&mut self, call: CallId) -> Option<Open<C>> {
        let open = self.open.remove(&call)?;
        self.callers.end(open.from);
        Some(open)
    }

    /// The next ended call that was not polled yet, in the order in which they ended.
    pub(crate) fn poll_ended(&mut self) -> Option<Ended<C>> {
        self.ended.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: CallId = CallId(1);

    fn calls(reports: u64) -> Calls<&'static str> {
        let mut calls = Calls::new();
        assert_eq!(calls.next_id(), CALL);
        calls.open(CALL, reports, (Millis(10), 100), (CallerId(1), "caller"));
        calls
    }

    fn tally(queued: u64, partials: u32) -> Report {
        let tally = Tally { matched: queued, queued, ..Tally::default() };
        Report::Tally { call: CALL, shard: ShardId(0), tally, partials }
    }

    fn partial(queued: u64) -> Report {
        let tally = Tally { matched: queued, queued, ..Tally::default() };
        Report::PartialTally { call: CALL, shard: ShardId(1), tally, settles: 1 }
    }

    #[test]
    fn reports_in_any_order_complete_a_call() {
        let check = |reports: [Report; 4]| {
            let mut calls = calls(2);
            for report in reports {
                assert!(calls.poll_ended().is_none());
                assert!(calls.settle(report).is_none());
            }
            let Ended { call, caller, outcome } = calls.poll_ended().expect("complete");
            assert_eq!((call, caller, calls.under_way()), (CALL, "caller", 0));
            assert_eq!(outcome.expect("complete").tally.queued, 15);
        };
        check([tally(1, 0), tally(2, 2), partial(4), partial(8)]);
        check([partial(4), partial(8), tally(1, 2), tally(2, 0)]);
        check([partial(4), tally(1, 1), partial(8), tally(2, 1)]);
    }

    #[test]
    fn reports_of_a_forgotten_call_are_swallowed() {
        let mut calls = calls(1);
        calls.forget(CALL);
        assert!(calls.settle(tally(1, 0)).is_none());
        assert!(calls.poll_ended().is_none());
        assert_eq!(calls.next_id(), CallId(2));
    }

    #[test]
    fn a_report_of_no_call_comes_back() {
        let report = Report::Disconnected { user: 1, key: "k".into() };
        assert!(matches!(calls(1).settle(report), Some(Report::Disconnected { .. })));
    }

    #[test]
    fn a_late_call_ends_with_the_partial_tally() {
        let mut calls = calls(2);
        calls.settle(tally(5, 3));
        calls.settle(partial(7));
        assert_eq!(calls.end_late(Millis(109), &HashMap::new()), Some(Millis(110)));
        assert!(calls.poll_ended().is_none());
        assert_eq!(calls.end_late(Millis(110), &HashMap::new()), None);
        let outcome = calls.poll_ended().expect("late").outcome;
        let Err(CallError::Late { missing: 3, waited_ms: 100, known }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(known.tally.queued, 12);
        assert!(calls.settle(partial(1)).is_none(), "it comes too late");
    }

    /// Moving a million rooms would take long.
    #[test]
    fn lists_of_rooms_are_passed_on_as_they_came() {
        let mut calls = calls(2);
        let lists = ["a", "b"].map(|room| vec![(Arc::from(room), 1)]);
        let places = lists.each_ref().map(Vec::as_ptr);
        for rooms in lists {
            assert!(calls.settle(Report::Rooms { call: CALL, rooms }).is_none());
        }
        let rooms = calls.poll_ended().expect("complete").outcome.expect("complete").rooms;
        assert_eq!(rooms.iter().map(Vec::as_ptr).collect::<Vec<_>>(), places);
    }

    #[test]
    fn late_calls_end_in_the_order_of_their_ids() {
        let mut calls = Calls::new();
        for _ in 0..100 {
            let call = calls.next_id();
            calls.open(call, 1, (Millis(0), 1), (CallerId(1), ()));
        }
        calls.end_late(Millis(1), &HashMap::new());
        let ended: Vec<u64> =
            std::iter::from_fn(|| calls.poll_ended()).map(|ended| ended.call.0).collect();
        assert_eq!(ended, (1..=100).collect::<Vec<_>>());
    }
}
