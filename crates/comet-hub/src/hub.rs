//! The connection between calls and the mesh: messages out to the shards, reports back to their calls.

use std::mem;
use std::sync::Arc;

use comet_core::{ActiveClock, CallId, Limits, Message, Millis, Report, ShardId};

use crate::calls::{CallError, Calls, Ended};
use crate::inboxes::Inboxes;
use crate::lane::{Gone, Lane};
use crate::queues::CallerId;

/// How long a full inbox is not tried again, milliseconds.
pub const RETRY_MS: u64 = 1;

/// Shortest time between two searches for late calls, milliseconds: each search visits all of them.
pub const LATE_LOOK_MS: u64 = 10;

/// The end of a call without a limit.
const NEVER: Millis = Millis(u64::MAX);

/// The calls under way, and the messages that wait in front of the inboxes of the shards.
///
/// `C` is what the driver stores with a call in order to find its caller. It is returned with the outcome.
///
/// Commands: [`begin`](Self::begin), [`tell`](Self::tell), [`configure`](Self::configure) and [`drain`](Self::drain)
/// post a message at once if no other one waits for the same inbox, and wake no shard. [`forget`](Self::forget) ends a
/// call whose caller has left.
///
/// The driver takes a turn when a report has come, after a command other than `forget`, and when
/// [`poll_timeout`](Self::poll_timeout) is due. A turn is, in this order:
///
/// 1. [`handle_report`](Self::handle_report) for reports that have come, a bounded number of them. Unclaimed reports
///    are returned.
/// 2. [`flush`](Self::flush): messages go into the inboxes, and the shards are woken.
/// 3. [`handle_timeout`](Self::handle_timeout): late calls end. A report that came before the hub noticed the end of
///    its call therefore counts.
/// 4. [`poll_outcome`](Self::poll_outcome) until there is none. It may also be polled after every report,
///    to keep the queue short.
/// 5. [`poll_timeout`](Self::poll_timeout): when the next turn is due, if nothing comes before.
///
/// Every call that [`begin`](Self::begin) returns gets exactly one outcome, unless it is forgotten before it ends. The
/// times of turns must not go back; the time of a `begin` may be rounded up. Limits of calls count active time: see
/// [`ActiveClock`].
pub struct Hub<C> {
    calls: Calls<C>,
    clock: ActiveClock,
    /// When late calls are searched for, in active time. One timer serves all calls; it is never later than the end of
    /// any call.
    late_at: Option<Millis>,
    /// When full inboxes are tried again.
    retry_at: Option<Millis>,
    /// By shard.
    lanes: Vec<Lane>,
    /// By shard: whether its last connection is gone.
    drained: Vec<bool>,
    /// The limits that every shard was sent, or will be.
    limits: Arc<Limits>,
}

impl<C> Hub<C> {
    /// `limits` are those that the shards were started with.
    ///
    /// # Panics
    /// If there is no shard.
    #[must_use]
    pub fn new(shards: u16, limits: Arc<Limits>) -> Self {
        assert!(shards > 0, "there is at least one shard");
        Self {
            calls: Calls::new(),
            clock: ActiveClock::new(Millis(0)),
            late_at: None,
            retry_at: None,
            lanes: (0..shards).map(|shard| Lane::new(ShardId(shard))).collect(),
            drained: vec![false; usize::from(shards)],
            limits,
        }
    }

    /// Numbers calls after `last`, the latest of a former process, so that no two calls have the same id.
    #[must_use]
    pub fn after(mut self, last: CallId) -> Self {
        self.go_on_after(last);
        self
    }

    /// As [`Hub::after`], for a hub in use. Its own calls so far keep their ids.
    pub fn go_on_after(&mut self, last: CallId) {
        self.calls.go_on_after(last);
    }

    /// The id of the latest call; 0: there was none.
    #[must_use]
    pub fn last_call(&self) -> CallId {
        self.calls.last()
    }

    /// Calls that have not ended.
    #[must_use]
    pub fn calls_under_way(&self) -> usize {
        self.calls.under_way()
    }

    /// Calls of one caller that have not ended.
    #[must_use]
    pub fn calls_of(&self, caller: CallerId) -> usize {
        self.calls.of(caller)
    }

    /// Time that did not count, because the driver was held up, milliseconds.
    #[must_use]
    pub fn stalled_ms(&self) -> u64 {
        self.clock.stalled_ms()
    }

    /// Messages that wait in front of the inbox of `shard`.
    #[must_use]
    pub fn waiting(&self, shard: ShardId) -> usize {
        self.lanes[usize::from(shard.0)].waiting()
    }

    /// Shards that have reported the end of their drain, or have ended.
    #[must_use]
    pub fn drained(&self) -> usize {
        self.drained.iter().filter(|drained| **drained).count()
    }

    /// The limits in effect.
    #[must_use]
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Starts a call that may take up to `limit_ms`. Its messages, at least one and each to be answered with one
    /// report, are sent to the shards behind those of the caller's earlier calls. Pushes of several callers take turns.
    /// Ids of calls count up from 1 without gaps.
    ///
    /// # Errors
    /// [`CallError::TooManyCalls`] and [`CallError::TooManyOfCaller`], before any message is made.
    /// [`CallError::ShardGone`]: shards before that one may have got their messages. The stored `C` is dropped in all
    /// cases.
    pub fn begin<M>(
        &mut self,
        (now, limit_ms): (Millis, u64),
        inboxes: &mut impl Inboxes,
        (caller, kept): (CallerId, C),
        messages: impl FnOnce(CallId) -> M,
    ) -> Result<CallId, CallError>
    where
        M: IntoIterator<Item = (ShardId, Message)>,
    {
        let now = self.advance(now);
        let Self { calls, lanes, late_at, .. } = self;
        calls.check_room(caller)?;
        let id = calls.next_id();
        let mut sent = 0;
        for (shard, message) in messages(id) {
            lanes[usize::from(shard.0)]
                .send(inboxes, (Some(id), caller), message, |call| call == id || calls.runs(call))
                .map_err(|Gone| CallError::ShardGone(shard))?;
            sent += 1;
        }
        calls.open(id, sent, (now, limit_ms), (caller, kept));
        let deadline = now.after(limit_ms);
        if deadline < NEVER {
            *late_at = Some(late_at.map_or(deadline, |at| at.min(deadline)));
        }
        Ok(id)
    }

    /// Ends `call` without an outcome, because its caller has left. Its messages that still wait are not sent. No
    /// effect on a call that has ended.
    pub fn forget(&mut self, call: CallId) {
        self.calls.forget(call);
    }

    /// Sends a message that belongs to no call to `shard`. `false`: it is dropped, because too many wait already or the
    /// shard has ended.
    pub fn tell(&mut self, inboxes: &mut impl Inboxes, shard: ShardId, message: Message) -> bool {
        let Self { calls, lanes, .. } = self;
        let lane = &mut lanes[usize::from(shard.0)];
        !lane.is_full()
            && lane
                .send(inboxes, (None, CallerId::default()), message, |call| calls.runs(call))
                .is_ok()
    }

    /// As [`Hub::tell`], for a message that a shard waits for. It is sent however many wait, because shards bound their
    /// number. `false`: the shard has ended.
    pub fn answer(&mut self, inboxes: &mut impl Inboxes, shard: ShardId, message: Message) -> bool {
        let Self { calls, lanes, .. } = self;
        lanes[usize::from(shard.0)]
            .send(inboxes, (None, CallerId::default()), message, |call| calls.runs(call))
            .is_ok()
    }

    /// Sends [`Message::CancelBroadcast`] to every shard, however many messages wait. Call it once for a broadcast;
    /// there are only few.
    pub fn cancel_broadcast(&mut self, inboxes: &mut impl Inboxes, call: CallId) {
        let Self { calls, lanes, .. } = self;
        for lane in lanes {
            // A shard that has ended has no broadcast left.
            let _ = lane.send(
                inboxes,
                (None, CallerId::default()),
                Message::CancelBroadcast { call },
                |id| calls.runs(id),
            );
        }
    }

    /// Sends changed limits to every shard. `change` makes them from the present ones, which are returned.
    pub fn configure(
        &mut self,
        inboxes: &mut impl Inboxes,
        change: impl FnOnce(Limits) -> Limits,
    ) -> Arc<Limits> {
        let Self { calls, lanes, limits, .. } = self;
        let changed = Arc::new(change(Limits::clone(limits)));
        for lane in lanes {
            let message = Message::Configure { limits: Arc::clone(&changed) };
            // A shard that has ended has nothing left to limit.
            let _ =
                lane.send(inboxes, (None, CallerId::default()), message, |call| calls.runs(call));
        }
        mem::replace(limits, changed)
    }

    /// Sends [`Message::Drain`] to every shard; [`Hub::drained`] returns how many are done. A shard that has ended
    /// counts as done.
    pub fn drain(&mut self, inboxes: &mut impl Inboxes, over_ms: u32, retry_after_ms: u32) {
        let Self { calls, lanes, drained, .. } = self;
        for (lane, drained) in lanes.iter_mut().zip(drained) {
            let message = Message::Drain { over_ms, retry_after_ms };
            *drained |= lane
                .send(inboxes, (None, CallerId::default()), message, |call| calls.runs(call))
                .is_err();
        }
    }

    /// Sends [`Message::MoveOff`] to every shard, with the number of connections that it must close.
    pub fn move_off(
        &mut self,
        inboxes: &mut impl Inboxes,
        most: impl IntoIterator<Item = Option<u64>>,
        (over_ms, retry_after_ms): (u32, u32),
    ) {
        let Self { calls, lanes, .. } = self;
        for (lane, most) in lanes.iter_mut().zip(most) {
            let message = Message::MoveOff { most, over_ms, retry_after_ms };
            // A shard that has ended has no connection left.
            let _ =
                lane.send(inboxes, (None, CallerId::default()), message, |call| calls.runs(call));
        }
    }

    /// Takes a report from a shard. A report to a call that has ended is dropped, except for a list, which is returned
    /// to be freed. An unclaimed report is returned as well.
    pub fn handle_report(&mut self, report: Report) -> Option<Report> {
        match report {
            Report::Drained { shard } => {
                self.drained[usize::from(shard.0)] = true;
                None
            }
            report => {
                if let Report::Tally { shard, .. }
                | Report::Scheduled { shard, .. }
                | Report::Busy { shard, .. } = report
                {
                    self.lanes[usize::from(shard.0)].release();
                }
                self.calls.settle(report)
            }
        }
    }

    /// Moves waiting messages into the inboxes, as far as there is space, and wakes the shards that got messages since
    /// the last call. Calls with a message to a shard that has ended end with [`CallError::ShardGone`].
    pub fn flush(&mut self, now: Millis, inboxes: &mut impl Inboxes) {
        let Self { calls, lanes, drained, .. } = self;
        let mut is_backed_up = false;
        for ((shard, lane), drained) in (0..).map(ShardId).zip(lanes).zip(drained) {
            if let Err(abandoned) = lane.flush(inboxes, |call| calls.runs(call)) {
                *drained = true;
                for call in abandoned {
                    calls.fail(call, shard);
                }
            }
            lane.notify(inboxes);
            is_backed_up |= lane.waiting() > 0;
        }
        self.retry_at = is_backed_up.then(|| now.after(RETRY_MS));
    }

    /// Ends calls whose limit is over at `now`, if a search is due: with [`CallError::InboxFull`] if one of their
    /// messages still waits, otherwise with [`CallError::Late`]. A call ends at most [`LATE_LOOK_MS`] after its limit,
    /// if the driver is in time.
    pub fn handle_timeout(&mut self, now: Millis) {
        let now = self.advance(now);
        if self.late_at.is_none_or(|at| now < at) {
            return;
        }
        let waiting = (0..).map(ShardId).zip(&self.lanes);
        let blocked = waiting.flat_map(|(shard, lane)| lane.calls().map(move |call| (call, shard)));
        let next = self.calls.end_late(now, &blocked.collect());
        self.late_at = next.filter(|at| *at < NEVER).map(|at| at.max(now.after(LATE_LOOK_MS)));
    }

    /// The next ended call that was not polled yet, in the order in which they ended.
    pub fn poll_outcome(&mut self) -> Option<Ended<C>> {
        self.calls.poll_ended()
    }

    /// When the next turn is due, if nothing comes before. After a command the result is correct only once
    /// [`Hub::flush`] was called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Millis> {
        let late_at = self.late_at.map(|at| self.clock.time_of(at).min(self.clock.awake_until()));
        [self.retry_at, late_at].into_iter().flatten().min()
    }

    /// The active time at `now`.
    fn advance(&mut self, now: Millis) -> Millis {
        let mut clock = self.clock;
        clock.advance(now, || self.poll_timeout());
        self.clock = clock;
        clock.active()
    }
}

#[cfg(test)]
mod tests;
