//! Where calls meet the mesh: messages out to the shards, reports back to their calls.
//!
//! The control thread is the only one that calls in here, except for [`Hub::drain`], which another
//! thread waits in, and what changes alive; so the lock is free whenever it is asked for, and nobody
//! holds it across an await.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use std::{io, mem};

use comet_core::{CallId, Limits, Message, Report, ShardId};
use comet_mesh::{Inbox, Sender, Wake};
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::sleep_until;

use crate::calls::{CALLS_MAX, Calls, Gathered, Outcome};
use crate::drain::DrainPlan;
use crate::lane::{Gone, Lane};
use crate::trace_log::{Counts, TraceLog};
use crate::wake::ControlWake;

/// Reports taken from the inbox before the servers get their turn.
const TURN_REPORTS: usize = 1_024;

/// How long a full inbox is left alone before it is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// Time between two looks for late calls, at least: each look is at all of them.
const LATE_LOOK: Duration = Duration::from_millis(10);

/// Why a call has no complete answer.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// [`CALLS_MAX`] calls are under way.
    TooManyCalls,
    /// The shard has ended.
    ShardGone(ShardId),
    /// The shard's inbox had no room in time; other shards may have got their part.
    InboxFull { shard: ShardId, waited: Duration, known: Box<Gathered> },
    /// Some reports did not come in time.
    Late { missing: u64, waited: Duration, known: Box<Gathered> },
}

struct State {
    calls: Calls,
    /// When late calls are looked for; one timer for all, where it is not later than any call's end.
    late_at: Option<Instant>,
    lanes: Vec<Lane>,
    /// By shard: its last connection is gone.
    drained: Vec<bool>,
    /// What every shard has been told, or is about to be.
    limits: Arc<Limits>,
    trace_log: Option<TraceLog>,
}

pub(crate) struct Hub {
    shards: u16,
    wake: Arc<ControlWake>,
    /// Of all files the trace log was written to.
    trace_counts: Arc<Counts>,
    state: Mutex<State>,
    /// Rings when `drained` changes.
    progress: Condvar,
}

impl Hub {
    /// `limits` are those that the shards were started with.
    ///
    /// # Panics
    /// If there is no shard, or more than a [`ShardId`] can number.
    pub(crate) fn new(
        shards: Vec<Sender<Message>>,
        wake: Arc<ControlWake>,
        limits: Arc<Limits>,
    ) -> Self {
        assert!(!shards.is_empty(), "there is at least one shard");
        let count = u16::try_from(shards.len()).expect("shards are numbered in 16 bits");
        let state = State {
            calls: Calls::default(),
            late_at: None,
            drained: vec![false; shards.len()],
            lanes: shards.into_iter().map(Lane::new).collect(),
            limits,
            trace_log: None,
        };
        Self {
            shards: count,
            wake,
            trace_counts: Arc::default(),
            state: Mutex::new(state),
            progress: Condvar::new(),
        }
    }

    pub(crate) fn shards(&self) -> u16 {
        self.shards
    }

    /// Starts a call that may take as long as `limit`: puts its messages, one report for each to come, on
    /// their way to the shards, all before anybody else's. Does not wait, so calls reach each shard in
    /// the order they start in.
    pub(crate) fn begin<M>(
        self: &Arc<Self>,
        limit: Duration,
        messages: impl FnOnce(CallId) -> M,
    ) -> Result<Call, Unfinished>
    where
        M: IntoIterator<Item = (ShardId, Message)>,
    {
        let mut state = self.lock();
        let State { calls, lanes, late_at, .. } = &mut *state;
        if calls.under_way() >= CALLS_MAX {
            return Err(Unfinished::TooManyCalls);
        }
        // It runs later, on this thread, and then finds what follows.
        self.wake.wake();
        let id = calls.next_id();
        let mut sent = 0;
        for (shard, message) in messages(id) {
            lanes[usize::from(shard.0)]
                .send(Some(id), message, |call| call == id || calls.runs(call))
                .map_err(|Gone| Unfinished::ShardGone(shard))?;
            sent += 1;
        }
        let now = Instant::now();
        let outcome = calls.open(id, sent, limit, now);
        *late_at = Some(late_at.map_or(now + limit, |at| at.min(now + limit)));
        Ok(Call { hub: Arc::clone(self), id, outcome })
    }

    /// The same message to every shard.
    pub(crate) fn begin_everywhere(
        self: &Arc<Self>,
        limit: Duration,
        message: impl Fn(CallId) -> Message,
    ) -> Result<Call, Unfinished> {
        self.begin(limit, |call| (0..self.shards).map(move |shard| (ShardId(shard), message(call))))
    }

    /// Puts a message that belongs to no call on its way. One that finds too many waiting is gone:
    /// whoever asked for it runs into a deadline. A shard that has ended misses nothing.
    pub(crate) fn tell(&self, shard: ShardId, message: Message) {
        let mut state = self.lock();
        let State { calls, lanes, .. } = &mut *state;
        let lane = &mut lanes[usize::from(shard.0)];
        if lane.is_full() {
            return;
        }
        if lane.send(None, message, |call| calls.runs(call)).is_ok() {
            self.wake.wake();
        }
    }

    /// Carries reports to calls, those that no call asked for to `others`, and messages to shards, for as
    /// long as it is polled.
    ///
    /// To be polled as a task of its own: whatever begins a call wakes it, so it runs behind all the
    /// calls that came in at once, and each shard is woken once for all of them.
    pub(crate) async fn run(
        self: Arc<Self>,
        reports: Arc<Inbox<Report>>,
        mut others: impl FnMut(Report),
    ) -> Infallible {
        let mut unasked = Vec::new();
        let mut alarm = pin!(sleep_until(Instant::now().into()));
        loop {
            let due = self.turn(&reports, &mut unasked);
            // Outside the lock: whoever gets them may have something to say to a shard at once.
            unasked.drain(..).for_each(&mut others);
            if !reports.arm_wakeup() {
                tokio::task::yield_now().await;
                continue;
            }
            if let Some(at) = due
                && alarm.deadline() != at.into()
            {
                alarm.as_mut().reset(at.into());
            }
            // Either way it is time to look again.
            select! {
                biased;
                () = self.wake.notified() => {}
                () = &mut alarm, if due.is_some() => {}
            }
            reports.disarm_wakeup();
        }
    }

    /// Settles a bounded number of reports, flushes the lanes, wakes the shards and ends late calls.
    /// Says when there is something to do again, if no report comes before.
    fn turn(&self, reports: &Inbox<Report>, unasked: &mut Vec<Report>) -> Option<Instant> {
        let mut state = self.lock();
        let State { calls, lanes, drained, trace_log, late_at, .. } = &mut *state;
        for _ in 0..TURN_REPORTS {
            match reports.try_recv() {
                Some(Report::Drained { shard }) => {
                    drained[usize::from(shard.0)] = true;
                    self.progress.notify_all();
                }
                Some(Report::Trace(event)) => {
                    if let Some(trace_log) = trace_log {
                        trace_log.write(event);
                    }
                }
                Some(report) => unasked.extend(calls.settle(report)),
                None => break,
            }
        }
        for (shard, lane) in (0..).zip(lanes.iter_mut()) {
            if let Err(abandoned) = lane.flush(|call| calls.runs(call)) {
                drained[usize::from(shard)] = true;
                self.progress.notify_all();
                for call in abandoned {
                    calls.fail(call, ShardId(shard));
                }
            }
            lane.notify();
        }
        let now = Instant::now();
        if late_at.is_some_and(|at| at <= now) {
            let waiting = (0..).map(ShardId).zip(&*lanes);
            let blocked =
                waiting.flat_map(|(shard, lane)| lane.calls().map(move |call| (call, shard)));
            *late_at = calls.end_late(now, &blocked.collect()).map(|at| at.max(now + LATE_LOOK));
        }
        let retry = lanes.iter().any(Lane::is_backed_up).then(|| now + RETRY);
        [retry, *late_at].into_iter().flatten().min()
    }

    /// Tells every shard to drain by `plan`, and blocks until all have or its limit has passed. Returns
    /// how many have. A shard that has ended has no connection left.
    pub(crate) fn drain(&self, plan: DrainPlan) -> usize {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let message =
            Message::Drain { over_ms: millis(plan.over), retry_after_ms: millis(plan.retry_after) };
        let mut state = self.lock();
        let State { calls, lanes, drained, .. } = &mut *state;
        for (lane, drained) in lanes.iter_mut().zip(drained) {
            *drained |= lane.send(None, message.clone(), |call| calls.runs(call)).is_err();
        }
        self.wake.wake();
        let (state, _) = self
            .progress
            .wait_timeout_while(state, plan.limit, |state| state.drained.contains(&false))
            .expect(NO_PANIC);
        state.drained.iter().filter(|drained| **drained).count()
    }

    /// Bounds that every shard is told of: `change` makes them from those that held so far, which are
    /// returned.
    pub(crate) fn configure(&self, change: impl FnOnce(Limits) -> Limits) -> Arc<Limits> {
        let mut state = self.lock();
        let State { calls, lanes, limits, .. } = &mut *state;
        let changed = Arc::new(change(Limits::clone(limits)));
        for lane in lanes {
            let message = Message::Configure { limits: Arc::clone(&changed) };
            // A shard that has ended has nothing left to bound.
            let _ = lane.send(None, message, |call| calls.runs(call));
        }
        self.wake.wake();
        mem::replace(limits, changed)
    }

    /// The bounds that hold.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.lock().limits)
    }

    /// Whether there is a file to write to.
    pub(crate) fn has_trace_log(&self) -> bool {
        self.lock().trace_log.is_some()
    }

    /// Lines of the trace log, and events it has not.
    pub(crate) fn trace_log_counts(&self) -> (u64, u64) {
        self.trace_counts.read()
    }

    /// Lets the trace log be written to the file that is now called `path`, or ends it. `epoch` is the
    /// zero of the events' times. Waits for the lines of a file that is given up.
    ///
    /// # Errors
    /// If a file that was not open yet cannot be opened; then nothing changes.
    pub(crate) fn set_trace_log(&self, path: Option<PathBuf>, epoch: Instant) -> io::Result<()> {
        if let Some(trace_log) = &self.lock().trace_log
            && path.as_deref() == Some(trace_log.path())
        {
            trace_log.reopen();
            return Ok(());
        }
        let open = |path| TraceLog::open(path, epoch, Arc::clone(&self.trace_counts));
        let trace_log = path.map(open).transpose()?;
        let old = mem::replace(&mut self.lock().trace_log, trace_log);
        // Not under the lock: this waits for the disk.
        drop(old);
        Ok(())
    }

    pub(crate) fn calls_under_way(&self) -> usize {
        self.lock().calls.under_way()
    }

    /// Messages on their way to each shard.
    pub(crate) fn depths(&self) -> Vec<usize> {
        self.lock().lanes.iter().map(Lane::depth).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

/// A call under way: ready with the last report, or when its time is over. Dropped before, it is given
/// up: messages of it that still wait are not sent.
pub(crate) struct Call {
    hub: Arc<Hub>,
    id: CallId,
    outcome: oneshot::Receiver<Outcome>,
}

impl Future for Call {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = ready!(Pin::new(&mut self.outcome).poll(cx));
        Poll::Ready(outcome.expect("a call leaves the table with an outcome, or by its own hand"))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.outcome.is_terminated() {
            self.hub.lock().calls.forget(self.id);
        }
    }
}
