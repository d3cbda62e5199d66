//! An account of all calls that is independent of the hub. From the messages that go out and the reports that come in
//! it derives what the hub must answer.

use std::collections::{BTreeMap, BTreeSet};

use comet_core::{CallId, MessageClass, Millis, Report, ShardId, Tally};
use comet_hub::{CallError, CallResult, CallerId, Ended, LATE_LOOK_MS};

use crate::call::{Call, End, Sums};
use crate::stall_log::StallLog;

pub(crate) struct CallChecker {
    /// The calls since the last quiet point, without gaps.
    calls: Vec<Call>,
    next_id: u64,
    /// The ids of the calls whose callers wait.
    open: BTreeSet<u64>,
    /// By shard, class and caller: the last call of which a message was posted.
    last_posted: BTreeMap<(ShardId, usize, u64), u64>,
    /// The sum of all tallies, including those that came for ended calls.
    total: Tally,
    pub(crate) counts: CallCounts,
}

/// The number of calls by kind of end.
#[derive(Clone, Copy, Default)]
pub(crate) struct CallCounts {
    pub(crate) answered: u64,
    pub(crate) inbox_full: u64,
    pub(crate) late: u64,
    pub(crate) left: u64,
    /// Messages that were never posted, because their call had ended.
    pub(crate) skipped: u64,
}

impl CallChecker {
    pub(crate) fn new() -> Self {
        Self {
            calls: Vec::new(),
            next_id: 1,
            open: BTreeSet::new(),
            last_posted: BTreeMap::new(),
            total: Tally::default(),
            counts: CallCounts::default(),
        }
    }

    /// The id that the hub must give to the next call.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// All calls since the last quiet point.
    pub(crate) fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The sum of all tallies.
    pub(crate) fn total(&self) -> &Tally {
        &self.total
    }

    /// The ids of the calls whose callers wait.
    pub(crate) fn open(&self) -> &BTreeSet<u64> {
        &self.open
    }

    /// Adds a call that is about to begin; its id is [`CallChecker::next_id`].
    pub(crate) fn add(&mut self, call: Call) {
        assert_eq!(call.id, self.next_id, "ids have no gaps");
        self.next_id += 1;
        self.open.insert(call.id);
        self.calls.push(call);
    }

    /// The caller of `call` leaves, if it still waits.
    pub(crate) fn leave(&mut self, call: u64) -> Result<(), String> {
        if self.open.remove(&call) {
            self.counts.left += 1;
            self.find(call)?.end = Some(End::Left);
        }
        Ok(())
    }

    /// The inbox of `shard` took a message of `call`.
    pub(crate) fn post(
        &mut self,
        call: CallId,
        shard: ShardId,
        class: MessageClass,
    ) -> Result<(), String> {
        let CallerId(caller) = self.find(call.0)?.caller;
        let last = self.last_posted.entry((shard, class as usize, caller)).or_default();
        if *last >= call.0 {
            return Err(format!("{call:?} reaches {shard:?} after call {last}"));
        }
        *last = call.0;
        let known = self.find(call.0)?;
        if let Some(end) = known.end {
            return Err(format!("a message of {call:?} goes out, which has ended: {end:?}"));
        }
        let waiting = known.unposted.iter().position(|unposted| *unposted == shard);
        known.unposted.remove(waiting.ok_or_else(|| format!("{call:?} has none for {shard:?}"))?);
        known.posted += 1;
        Ok(())
    }

    /// Takes a report to a call.
    pub(crate) fn report(&mut self, report: &Report) -> Result<(), String> {
        let (call, reports, partials, sums) = match report {
            Report::Tally { call, tally, partials, .. } => {
                (call, 1, i64::from(*partials), Sums { tally: *tally, ..Sums::default() })
            }
            Report::PartialTally { call, tally, settles, .. } => {
                (call, 0, -i64::from(*settles), Sums { tally: *tally, ..Sums::default() })
            }
            Report::Scheduled { call, connections, .. } => {
                (call, 1, 0, Sums { scheduled: *connections, ..Sums::default() })
            }
            Report::Busy { call, .. } => (call, 1, 0, Sums { busy: 1, ..Sums::default() }),
            Report::Rooms { call, rooms } => {
                (call, 1, 0, Sums { rooms: rooms.len(), ..Sums::default() })
            }
            Report::Connections { call, .. }
            | Report::Top { call, .. }
            | Report::History { call, .. } => (call, 1, 0, Sums { lists: 1, ..Sums::default() }),
            Report::Snapshot { call, counters, .. } => {
                check_sum(&counters.deliveries)?;
                (call, 1, 0, Sums { snapshots: 1, ..Sums::default() })
            }
            other => unreachable!("no report to a call: {other:?}"),
        };
        check_sum(&sums.tally)?;
        let call = self.find(call.0)?;
        let delivered = if call.is_kick { Tally::default() } else { sums.tally };
        if call.is_settled() || call.reported + reports > call.posted {
            return Err(format!(
                "call {} had all its reports, and there comes {report:?}",
                call.id
            ));
        }
        call.reported += reports;
        call.partials += partials;
        call.sums.add(&sums);
        if call.is_complete() {
            call.check()?;
        }
        self.total += delivered;
        Ok(())
    }

    /// The hub has said how a call ended.
    pub(crate) fn end(&mut self, now: Millis, ended: Ended<u64>) -> Result<(), String> {
        let Ended { call: CallId(id), caller, outcome } = ended;
        if caller != id || !self.open.remove(&id) {
            return Err(format!("call {id} ends for caller {caller} with {outcome:?}"));
        }
        let call = self.find(id)?;
        let is_over = now >= call.deadline;
        let (end, is_right) = match &outcome {
            Ok(result) => (End::Answered, call.is_complete() && call.sums.are(result)),
            Err(CallError::Late { missing, waited_ms, known }) => {
                let is_right = call.unposted.is_empty() && *missing == call.missing();
                let is_known = *waited_ms == call.limit_ms && call.sums.are(known);
                (End::Late, is_over && is_right && is_known)
            }
            Err(CallError::InboxFull { shard, waited_ms, known }) => {
                let is_right = call.unposted.last() == Some(shard);
                let is_known = *waited_ms == call.limit_ms && call.sums.are(known);
                (End::InboxFull, is_over && is_right && is_known)
            }
            Err(CallError::TooManyCalls | CallError::TooManyOfCaller | CallError::ShardGone(_)) => {
                (End::Late, false)
            }
        };
        call.end = Some(end);
        if !is_right {
            let (sums, unposted, missing) = (call.sums, &call.unposted, call.missing());
            return Err(format!(
                "call {id}, due at {:?}, ends at {now:?} with {outcome:?}, and had {sums:?}, \
                 {missing} missing, unposted {unposted:?}",
                call.deadline
            ));
        }
        match end {
            End::Answered => self.counts.answered += 1,
            End::InboxFull => self.counts.inbox_full += 1,
            End::Late => self.counts.late += 1,
            End::Left => unreachable!("a caller that left has no outcome"),
        }
        Ok(())
    }

    /// Checks that no outcome is due: after a turn of the hub, or when it sees no reason for a turn.
    pub(crate) fn check_open(&mut self, now: Millis, stalls: &StallLog) -> Result<(), String> {
        let first = self.first();
        for id in &self.open {
            let call = &self.calls[(id - first) as usize];
            if call.is_complete() {
                return Err(format!("call {id} is complete, and its caller has no answer"));
            }
            let begun_at = Millis(call.deadline.0 - call.limit_ms);
            if now > call.deadline.after(LATE_LOOK_MS + stalls.since(begun_at)) {
                return Err(format!("call {id} is overdue since {:?}", call.deadline));
            }
        }
        Ok(())
    }

    /// Whether every posted message is answered in full.
    pub(crate) fn is_settled(&self) -> bool {
        self.calls.iter().all(Call::is_settled)
    }

    /// At a quiet point: checks that every call has ended, and that messages that were never sent belong to calls that
    /// ended early.
    pub(crate) fn check_quiet(&mut self) -> Result<(), String> {
        for (call, rest) in
            self.calls.iter().zip(1..).map(|(call, next)| (call, &self.calls[next..]))
        {
            let has_newer = || rest.iter().any(|newer| call.may_be_superseded_by(newer));
            if call.superseded() > 0 && !has_newer() {
                return Err(format!("call {} was superseded by no other", call.id));
            }
            let skipped = call.unposted.len() as u64;
            let is_right = match call.end {
                None => false,
                Some(End::Answered | End::Late) => skipped == 0,
                Some(End::InboxFull) => skipped > 0,
                Some(End::Left) => true,
            };
            if !is_right || !call.is_settled() {
                let (id, end) = (call.id, call.end);
                return Err(format!("call {id} ended as {end:?}, and {skipped} were not sent"));
            }
            self.counts.skipped += skipped;
        }
        Ok(())
    }

    /// Forgets the calls before a quiet point.
    pub(crate) fn clear(&mut self) {
        self.calls.clear();
    }

    fn first(&self) -> u64 {
        self.next_id - self.calls.len() as u64
    }

    fn find(&mut self, id: u64) -> Result<&mut Call, String> {
        let index = id.checked_sub(self.first()).map(|index| index as usize);
        let call = index.and_then(|index| self.calls.get_mut(index));
        call.ok_or_else(|| format!("call {id} is of long ago, or was never made"))
    }
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.tally += other.tally;
        self.scheduled += other.scheduled;
        self.busy += other.busy;
        self.snapshots += other.snapshots;
        self.rooms += other.rooms;
        self.lists += other.lists;
    }

    /// Whether the hub's result equals them.
    fn are(&self, result: &CallResult) -> bool {
        let CallResult { tally, scheduled, busy, counters, rooms, connections, tops, history } =
            result;
        let pages = usize::from(history.is_some());
        *self
            == Self {
                tally: *tally,
                scheduled: *scheduled,
                busy: *busy,
                snapshots: counters.len(),
                rooms: rooms.iter().map(Vec::len).sum(),
                lists: connections.len() + tops.len() + pages,
            }
    }
}

fn check_sum(tally: &Tally) -> Result<(), String> {
    let is_sound = tally.matched == tally.queued + tally.dropped_total();
    is_sound.then_some(()).ok_or_else(|| format!("matched is not queued and dropped: {tally:?}"))
}
