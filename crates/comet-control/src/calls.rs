//! The calls under way: what their reports have added up to, and how many are still to come.
//!
//! A call is complete when a report has come for every message that was sent, and as many partials as
//! those reports announced. A part may overtake its announcement: it comes from another thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_core::{CallId, Counters, Report, ShardId, Tally};
use tokio::sync::oneshot;

use crate::hub::Unfinished;

/// Calls that may be under way at once. Each holds its frame, so this also bounds memory; a caller
/// beyond it is refused at once.
pub(crate) const CALLS_MAX: usize = 16_384;

/// What the reports of a call added up to.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) tally: Tally,
    /// Connections that paced broadcasts are going to visit.
    pub(crate) scheduled: u64,
    /// Shards that refused a paced broadcast.
    pub(crate) busy: u32,
    pub(crate) counters: Vec<(ShardId, Box<Counters>)>,
    pub(crate) rooms: Vec<(Arc<str>, u32)>,
}

/// How a call ended.
pub(crate) type Outcome = Result<Gathered, Unfinished>;

struct Open {
    /// Reports still to come for messages that were sent.
    missing: u64,
    /// Partial tallies announced that have not come; below zero, partials that came before they were announced.
    partials: i64,
    gathered: Gathered,
    /// How long it may take, and when that is over.
    limit: Duration,
    deadline: Instant,
    done: oneshot::Sender<Outcome>,
}

#[derive(Default)]
pub(crate) struct Calls {
    open: HashMap<CallId, Open>,
    last: u64,
}

impl Calls {
    pub(crate) fn under_way(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn runs(&self, call: CallId) -> bool {
        self.open.contains_key(&call)
    }

    /// An id no call had before.
    pub(crate) fn next_id(&mut self) -> CallId {
        self.last += 1;
        CallId(self.last)
    }

    /// Opens `call`, to be complete after `reports` of them, at least one, within `limit` from `now`.
    pub(crate) fn open(
        &mut self,
        call: CallId,
        reports: u64,
        limit: Duration,
        now: Instant,
    ) -> oneshot::Receiver<Outcome> {
        debug_assert!(reports > 0, "a call without a report would never end");
        let (done, outcome) = oneshot::channel();
        let (gathered, deadline) = (Gathered::default(), now + limit);
        self.open
            .insert(call, Open { missing: reports, partials: 0, gathered, limit, deadline, done });
        outcome
    }

    /// Adds a report to its call; a call that was given up is not there any more, and that is fine.
    /// Gives back what no call asked for.
    pub(crate) fn settle(&mut self, report: Report) -> Option<Report> {
        match report {
            Report::Tally { call, tally, partials } => self.add(call, |open| {
                open.missing -= 1;
                open.partials += i64::from(partials);
                open.gathered.tally += tally;
            }),
            Report::PartialTally { call, tally } => self.add(call, |open| {
                open.partials -= 1;
                open.gathered.tally += tally;
            }),
            Report::Scheduled { call, connections } => self.add(call, |open| {
                open.missing -= 1;
                open.gathered.scheduled += connections;
            }),
            Report::Busy { call } => self.add(call, |open| {
                open.missing -= 1;
                open.gathered.busy += 1;
            }),
            Report::Snapshot { call, shard, counters } => self.add(call, |open| {
                open.missing -= 1;
                open.gathered.counters.push((shard, counters));
            }),
            Report::Rooms { call, rooms } => self.add(call, |open| {
                open.missing -= 1;
                open.gathered.rooms.extend(rooms);
            }),
            unasked => return Some(unasked),
        }
        None
    }

    fn add(&mut self, call: CallId, report: impl FnOnce(&mut Open)) {
        let Some(open) = self.open.get_mut(&call) else { return };
        report(open);
        if open.missing == 0
            && open.partials == 0
            && let Some(Open { gathered, done, .. }) = self.open.remove(&call)
        {
            // Refused only when the caller left in this very moment.
            let _ = done.send(Ok(gathered));
        }
    }

    /// Ends `call`: a message of it cannot reach `shard` any more.
    pub(crate) fn fail(&mut self, call: CallId, shard: ShardId) {
        if let Some(open) = self.open.remove(&call) {
            let _ = open.done.send(Err(Unfinished::ShardGone(shard)));
        }
    }

    /// Ends the calls whose time is over at `now` with what they know; `blocked` are those of which a
    /// message still waits before a shard's full inbox. Returns when the next one is due.
    pub(crate) fn end_late(
        &mut self,
        now: Instant,
        blocked: &HashMap<CallId, ShardId>,
    ) -> Option<Instant> {
        for (call, open) in self.open.extract_if(|_, open| open.deadline <= now) {
            let Open { missing, partials, gathered, limit: waited, done, .. } = open;
            let known = Box::new(gathered);
            let _ = done.send(Err(match blocked.get(&call) {
                Some(&shard) => Unfinished::InboxFull { shard, waited, known },
                None => {
                    let missing = missing.saturating_add_signed(partials);
                    Unfinished::Late { missing, waited, known }
                }
            }));
        }
        self.open.values().map(|open| open.deadline).min()
    }

    /// Ends `call`, whose caller has left.
    pub(crate) fn forget(&mut self, call: CallId) {
        self.open.remove(&call);
    }
}
