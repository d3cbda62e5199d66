//! The tokio side of [`comet_hub::Hub`]: its lock, its clock, the waiting callers, and the task that runs its turns.
//!
//! Usually only the control thread calls in here. The exceptions are [`HubDriver::drain`], in which another thread
//! waits, and changes of settings. So the lock is almost always free, and it is never held across an await.

mod paced;
mod senders;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use std::{io, mem};

use comet_core::{CallId, Limits, Message, Millis, Report, ShardId};
use comet_hub::{CallError, CallResult, CallerId, Outcome, PacedBroadcast, PacedBroadcasts};
use comet_mesh::{Inbox, Sender, Wake};
use comet_ops::LogFormat;
use comet_serve::{Caller, drop_offloaded, offload};
use tokio::select;
use tokio::sync::oneshot;
use tokio::time::sleep_until;

use crate::drain::DrainPlan;
use crate::spans::{PushedNames, TracedPush, Traces};
use crate::trace_log::{Counts, TraceLog};
use crate::wake::ControlWake;
use crate::watchers::Watchers;

pub(crate) use paced::PacedCall;
pub use paced::PacedMove;

use senders::Senders;

/// Reports taken from the inbox before the servers get their turn.
const TURN_REPORTS: usize = 1_024;

struct State {
    hub: comet_hub::Hub<oneshot::Sender<Outcome>>,
    inboxes: Senders,
    trace_log: Option<TraceLog>,
    /// Reports to take before late calls end: the number in the inbox when this was last 0. So a call whose reports
    /// have come is never late, and a flood of reports does not keep calls open.
    unread: usize,
    paced: PacedBroadcasts,
    /// Callers that wait for the end of a paced broadcast that they cancelled.
    cancelled: HashMap<CallId, Vec<oneshot::Sender<PacedBroadcast>>>,
}

impl State {
    /// Passes outcomes on to the callers that wait for them.
    fn answer(&mut self) {
        while let Some(ended) = self.hub.poll_outcome() {
            if let Some(traces) = &mut self.inboxes.traces {
                traces.end(ended.call, ended.outcome.as_ref().err());
            }
            // Fails only if the caller left at this very moment.
            let _ = ended.caller.send(ended.outcome);
        }
    }
}

pub(crate) struct HubDriver {
    shards: u16,
    /// The zero of its clock, the same as that of the shards.
    epoch: Instant,
    wake: Arc<ControlWake>,
    /// Counts over all files that the trace log was written to.
    trace_counts: Arc<Counts>,
    /// The receivers of live traces.
    pub(crate) watchers: Watchers,
    state: Mutex<State>,
    /// Notified when the number of drained shards changes.
    progress: Condvar,
    /// The inbox of reports, once this runs.
    reports: OnceLock<Arc<Inbox<Report>>>,
}

impl HubDriver {
    /// `limits` are those that the shards were started with, `epoch` is the zero of their clock. Traced pushes go to
    /// `traced`, if there is one.
    ///
    /// # Panics
    /// If there is no shard, or more than a [`ShardId`] can number.
    pub(crate) fn new(
        shards: Vec<Sender<Message>>,
        wake: Arc<ControlWake>,
        limits: Arc<Limits>,
        epoch: Instant,
        traced: Option<SyncSender<TracedPush>>,
    ) -> Self {
        let count = u16::try_from(shards.len()).expect("shards are numbered in 16 bits");
        let hub = comet_hub::Hub::new(count, limits);
        Self {
            shards: count,
            epoch,
            wake,
            trace_counts: Arc::default(),
            watchers: Watchers::default(),
            state: Mutex::new(State {
                hub,
                inboxes: Senders::new(shards, traced.map(Traces::new)),
                trace_log: None,
                unread: 0,
                paced: PacedBroadcasts::default(),
                cancelled: HashMap::new(),
            }),
            progress: Condvar::new(),
            reports: OnceLock::new(),
        }
    }

    pub(crate) fn shards(&self) -> u16 {
        self.shards
    }

    /// Starts a call that may take up to `limit`, in whole milliseconds, and sends its messages, each to be answered
    /// with one report, to the shards. Does not wait, so the calls of one caller reach each shard in the order in which
    /// they start. The caller is the current one of comet-serve.
    pub(crate) fn begin<M>(
        self: &Arc<Self>,
        limit: Duration,
        messages: impl FnOnce(CallId) -> M,
    ) -> Result<Call, CallError>
    where
        M: IntoIterator<Item = (ShardId, Message)>,
    {
        let (caller, outcome) = oneshot::channel();
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        let State { hub, inboxes, .. } = &mut *state;
        // Rounded up, while the turns round down: no call has less than its limit.
        let now = self.now().after(1);
        let from = CallerId(Caller::current().0);
        let is_traced = inboxes.traces.as_mut().is_some_and(Traces::begin);
        let mut names = None;
        let messages = |call| {
            messages(call).into_iter().inspect(|(_, message)| {
                if is_traced {
                    PushedNames::add(&mut names, message);
                }
            })
        };
        let begun = hub.begin((now, limit_ms), inboxes, (from, caller), messages);
        if is_traced && let Some(traces) = &mut inboxes.traces {
            traces.begun(begun.as_ref().copied(), names);
        }
        if !matches!(begun, Err(CallError::TooManyCalls | CallError::TooManyOfCaller)) {
            // The task runs later, on this thread. It also wakes the shards that the call reached before it found one
            // gone.
            self.wake.wake();
        }
        begun.map(|id| Call { hub: Arc::clone(self), id, outcome })
    }

    /// Starts a call with the same message to every shard.
    pub(crate) fn begin_everywhere(
        self: &Arc<Self>,
        limit: Duration,
        message: impl Fn(CallId) -> Message,
    ) -> Result<Call, CallError> {
        self.begin(limit, |call| (0..self.shards).map(move |shard| (ShardId(shard), message(call))))
    }

    /// Asks every home for its rooms, and applies `make` to them on the blocking pool.
    pub(crate) async fn rooms<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        make: impl FnOnce(Vec<(Arc<str>, u32)>) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let make = move |counted: CallResult| make(counted.rooms.into_iter().flatten().collect());
        self.lists(limit, |call| Message::Rooms { call }, make).await
    }

    /// The members of each of `rooms` that has some, in any order.
    pub(crate) async fn count_rooms(
        self: &Arc<Self>,
        limit: Duration,
        rooms: Arc<[Arc<str>]>,
    ) -> Result<Vec<(Arc<str>, u32)>, CallError> {
        let message = |call| Message::CountRooms { call, rooms: Arc::clone(&rooms) };
        let counted = self.begin_everywhere(limit, message)?.await?;
        Ok(counted.rooms.into_iter().flatten().collect())
    }

    /// Asks every shard for a list, and applies a function to all lists on the blocking pool. The call continues when
    /// its caller leaves, so that unwanted lists are freed there as well.
    pub(crate) async fn lists<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        message: impl Fn(CallId) -> Message,
        make: impl FnOnce(CallResult) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        self.made(self.begin_everywhere(limit, message)?, make).await
    }

    /// As [`HubDriver::lists`], for one shard.
    pub(crate) async fn list_of<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        shard: ShardId,
        message: impl FnOnce(CallId) -> Message,
        make: impl FnOnce(CallResult) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        self.made(self.begin(limit, |call| [(shard, message(call))])?, make).await
    }

    async fn made<T: Send + 'static>(
        &self,
        call: Call,
        make: impl FnOnce(CallResult) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (sender, made) = oneshot::channel();
        tokio::spawn(async move {
            let listed = call.await;
            let make = move || {
                let made = listed.map(make).map_err(|mut error| {
                    error.forget_lists();
                    error
                });
                // Fails only if the caller has left.
                let _ = sender.send(made);
            };
            offload(make).await;
        });
        made.await.expect("the call ends with an outcome")
    }

    /// Sends a message that belongs to no call. It is dropped if too many wait; whoever depends on it then runs into a
    /// deadline. A shard that has ended needs no message.
    pub(crate) fn tell(&self, shard: ShardId, message: Message) {
        let mut state = self.lock();
        let State { hub, inboxes, .. } = &mut *state;
        if hub.tell(inboxes, shard, message) {
            self.wake.wake();
        }
    }

    /// Sends a message that the shard waits for.
    pub(crate) fn answer(&self, shard: ShardId, message: Message) {
        let mut state = self.lock();
        let State { hub, inboxes, .. } = &mut *state;
        if hub.answer(inboxes, shard, message) {
            self.wake.wake();
        }
    }

    /// Carries reports to calls, unclaimed ones to `others`, and messages to shards, as long as it is polled.
    ///
    /// Poll it as a task of its own. The begin of a call wakes it, so it runs after all calls that came in together,
    /// and each shard is woken once for all of them.
    pub(crate) async fn run(
        self: Arc<Self>,
        reports: Arc<Inbox<Report>>,
        mut others: impl FnMut(Report),
    ) -> Infallible {
        let reports = self.reports.get_or_init(|| reports);
        let mut unasked = Vec::new();
        let mut alarm = pin!(sleep_until(Instant::now().into()));
        loop {
            let due = self.turn(reports, &mut unasked);
            // Done outside the lock: a receiver may send a message to a shard at once.
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
            // Whichever of these resolves, the next turn follows.
            select! {
                biased;
                () = self.wake.notified() => {}
                () = &mut alarm, if due.is_some() => {}
            }
            reports.disarm_wakeup();
        }
    }

    /// One turn of the hub, with a bounded number of reports; unclaimed ones go to `unasked`. Returns when the next
    /// turn is due, if no report comes before.
    fn turn(&self, reports: &Inbox<Report>, unasked: &mut Vec<Report>) -> Option<Instant> {
        let mut state = self.lock();
        let drained_before = state.hub.drained();
        if state.unread == 0 {
            state.unread = reports.depth();
        }
        for _ in 0..TURN_REPORTS {
            match reports.try_recv() {
                Some(Report::Trace(event)) => {
                    let event = Arc::from(event);
                    self.watchers.tell(&event);
                    if event.is_logged
                        && let Some(trace_log) = &mut state.trace_log
                    {
                        trace_log.write(event);
                    }
                }
                Some(Report::PacedEnded { call, shard, tally }) => {
                    state.end_paced(call, shard, tally);
                }
                Some(report) => {
                    if let Some(traces) = &mut state.inboxes.traces {
                        traces.handle_report(&report);
                    }
                    match state.hub.handle_report(report) {
                        // The caller who asked for them no longer waits.
                        Some(report @ (Report::Rooms { .. } | Report::Connections { .. })) => {
                            drop_offloaded(report);
                        }
                        report => unasked.extend(report),
                    }
                    state.answer();
                }
                None => break,
            }
            state.unread = state.unread.saturating_sub(1);
        }
        let now = self.now();
        let State { hub, inboxes, unread, .. } = &mut *state;
        hub.flush(now, inboxes);
        if *unread == 0 {
            hub.handle_timeout(now);
        }
        state.answer();
        if state.hub.drained() != drained_before {
            self.progress.notify_all();
        }
        state.hub.poll_timeout().map(|at| self.epoch + Duration::from_millis(at.0))
    }

    /// Tells every shard to drain by `plan`, and blocks until all have drained or its limit has passed. Returns how
    /// many have. A shard that has ended has no connection left.
    pub(crate) fn drain(&self, plan: DrainPlan) -> usize {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let mut state = self.lock();
        let State { hub, inboxes, .. } = &mut *state;
        hub.drain(inboxes, millis(plan.over), millis(plan.retry_after));
        self.wake.wake();
        let all = usize::from(self.shards);
        let (state, _) = self
            .progress
            .wait_timeout_while(state, plan.limit, |state| state.hub.drained() < all)
            .expect(NO_PANIC);
        state.hub.drained()
    }

    /// Tells every shard how many connections it must close.
    pub(crate) fn move_off(
        &self,
        most: impl IntoIterator<Item = Option<u64>>,
        over: Duration,
        retry_after_ms: u32,
    ) {
        let over_ms = u32::try_from(over.as_millis()).unwrap_or(u32::MAX);
        let mut state = self.lock();
        let State { hub, inboxes, .. } = &mut *state;
        hub.move_off(inboxes, most, (over_ms, retry_after_ms));
        self.wake.wake();
    }

    /// Sends changed limits to every shard: `change` makes them from the present ones, which are returned.
    pub(crate) fn configure(&self, change: impl FnOnce(Limits) -> Limits) -> Arc<Limits> {
        let mut state = self.lock();
        let State { hub, inboxes, .. } = &mut *state;
        let before = hub.configure(inboxes, change);
        self.wake.wake();
        before
    }

    /// The limits in effect.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(self.lock().hub.limits())
    }

    /// Whether the trace log has a file.
    pub(crate) fn has_trace_log(&self) -> bool {
        self.lock().trace_log.is_some()
    }

    /// Number of lines in the trace log, and of events that it has not.
    pub(crate) fn trace_log_counts(&self) -> (u64, u64) {
        self.trace_counts.read()
    }

    /// Has the trace log written in `format` to the file at `path`, or ends it. Waits until the lines of the former
    /// file are written.
    ///
    /// # Errors
    /// If a file cannot be opened that was not open yet; then nothing changes.
    pub(crate) fn set_trace_log(&self, path: Option<PathBuf>, format: LogFormat) -> io::Result<()> {
        if let Some(trace_log) = &self.lock().trace_log
            && path.as_deref() == Some(trace_log.path())
        {
            trace_log.reopen();
            return Ok(());
        }
        let open = |path| TraceLog::open(path, format, self.epoch, Arc::clone(&self.trace_counts));
        let trace_log = path.map(open).transpose()?;
        let old = mem::replace(&mut self.lock().trace_log, trace_log);
        // Dropped outside the lock, because this waits for the disk.
        drop(old);
        Ok(())
    }

    /// Stops tracing pushes, so that the receiver of traced pushes learns of the end.
    pub(crate) fn end_traces(&self) {
        self.lock().inboxes.traces = None;
    }

    pub(crate) fn calls_under_way(&self) -> usize {
        self.lock().hub.calls_under_way()
    }

    /// The number of calls of all other callers.
    pub(crate) fn calls_beside(&self, caller: Caller) -> usize {
        let hub = &self.lock().hub;
        hub.calls_under_way() - hub.calls_of(CallerId(caller.0))
    }

    /// Numbers calls after `last`, the latest of another process. There was none here before.
    pub(crate) fn go_on_after(&self, last: CallId) {
        self.lock().hub.go_on_after(last);
    }

    /// The id of the latest call.
    pub(crate) fn last_call(&self) -> CallId {
        self.lock().hub.last_call()
    }

    /// Number of messages on their way to each shard, in its inbox and in front of it.
    pub(crate) fn depths(&self) -> Vec<usize> {
        let state = self.lock();
        let State { hub, inboxes, .. } = &*state;
        let shards = (0..self.shards).map(ShardId);
        shards.map(|shard| inboxes.of(shard).depth() + hub.waiting(shard)).collect()
    }

    /// Number of reports that no turn has handled.
    pub(crate) fn unread_reports(&self) -> usize {
        // A turn holds the lock until it has handled the reports it took.
        let _state = self.lock();
        self.reports.get().map_or(0, |reports| reports.depth())
    }

    /// The time since `epoch`, rounded down.
    pub(crate) fn now(&self) -> Millis {
        Millis(u64::try_from(self.epoch.elapsed().as_millis()).expect("no process runs that long"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(NO_PANIC)
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

/// A call under way. It is ready with the last report, or when its time is over. If dropped before, it is given up: its
/// messages that still wait are not sent.
pub(crate) struct Call {
    hub: Arc<HubDriver>,
    id: CallId,
    outcome: oneshot::Receiver<Outcome>,
}

impl Future for Call {
    type Output = Result<CallResult, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.outcome).poll(cx));
        let outcome = outcome.expect("a call ends with an outcome unless it is forgotten");
        Poll::Ready(outcome)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.outcome.is_terminated() {
            let mut state = self.hub.lock();
            state.hub.forget(self.id);
            if let Some(traces) = &mut state.inboxes.traces {
                traces.cancel(self.id);
            }
        }
    }
}
