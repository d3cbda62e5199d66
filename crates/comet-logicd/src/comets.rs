//! The comets that `comet logic` serves. For a push the sessions select the comets, each of these is called, and their
//! ledgers are added up.
//!
//! A comet that cannot be reached is named in the answer, and so is one whose answer is lost. If no comet is known to
//! have taken a push, it has failed. Comets come and go while pushes are under way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use comet_hub::fanout::{
    Call, Check, CometNumber, Fanout, FanoutConfig, FanoutEvent, Health, HealthMonitor,
    HealthTimes, LedgerSum, NoPermit, PartId, PushError, PushFanout, Target, may_have_taken,
};
use comet_hub::{CallerId, Millis};
use comet_push::{CallLimits, FailedServer, MayHaveTaken, PushResult};
use comet_router::{Sessions, Store, StoreError};
use comet_serve::{BearerToken, Caller, Outgoing};
use comet_wire::goim::comet::Ledger;
use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tonic::Status;

use crate::active_time::ActiveTime;
use crate::comet::{Comet, CometOptions, Origin, Request, ask};
use crate::desired_comets::DesiredComets;

/// Most pushes under way at once. Together with the longest body this bounds their memory.
const PUSHES_MAX: usize = 1_024;

/// Most pushes of one caller, so that it takes four callers to use up all permits.
const CALLER_PUSHES_MAX: usize = PUSHES_MAX / 4;

/// Most calls under way to one comet, so that a slow comet holds up at most half of the pushes.
const CALLS_MAX: usize = PUSHES_MAX / 2;

/// How much longer than the push itself a comet may take: its own error about a late push says more.
const GRACE: Duration = Duration::from_secs(1);

/// Most comets from discovery, including those that left it. Configured comets come in addition.
const DISCOVERED_MAX: usize = 1_024;

/// When comets are asked whether they take clients. A comet that hangs is used until the limit, and then left out.
const HEALTH_TIMES: HealthTimes = HealthTimes { rest_ms: 1_000, limit_ms: 2_000 };

/// All comets, and the store of their sessions.
pub(crate) struct Comets {
    token: BearerToken,
    pub(crate) sessions: Arc<Store>,
    pub(crate) bounds: CallLimits,
    time: ActiveTime,
    /// This lock is never held across an await, and only the thread of logic takes it.
    state: Arc<Mutex<State>>,
    /// Notified when a comet is gone, for pushes under way.
    gone: watch::Sender<()>,
    /// Sessions by server id, as last reported by the store; empty at first.
    live: Mutex<BTreeMap<String, u64>>,
}

/// The comets at one moment.
pub(crate) type CometList = BTreeMap<CometNumber, Comet>;

/// The three parts always have the same comets.
struct State {
    /// Replaced as a whole: a holder of the former list keeps it.
    list: Arc<CometList>,
    fanout: Fanout,
    health: HealthMonitor,
}

impl State {
    /// The comets that discovery no longer has, and that still answer. If a desired comet has the same address, it is
    /// that one.
    fn left(&self, desired: &DesiredComets) -> Vec<(CometOptions, Origin)> {
        let comets = self.list.iter();
        let left = comets.filter(|(number, Comet { options, origin, .. })| {
            let health = self.health.health(**number);
            *origin != Origin::Configured
                && matches!(health, Health::Serving | Health::NotServing)
                && !desired.has(options)
        });
        let left = left.take(DISCOVERED_MAX.saturating_sub(desired.discovered.len()));
        left.map(|(_, comet)| (comet.options.clone(), Origin::Left)).collect()
    }

    /// Removes the comets that left discovery and no longer answer.
    fn drop_left(&mut self) {
        let Self { list, health, .. } = self;
        let is_over = |(number, comet): &(&CometNumber, &Comet)| {
            comet.origin == Origin::Left && matches!(health.health(**number), Health::Gone(_))
        };
        let over: Vec<_> = list.iter().filter(is_over).map(|(number, _)| *number).collect();
        for number in over {
            if let Some(comet) = Arc::make_mut(&mut self.list).remove(&number) {
                self.forget(number, &comet.options);
            }
        }
    }

    fn forget(&mut self, number: CometNumber, CometOptions { id, address, .. }: &CometOptions) {
        self.fanout.remove_comet(number);
        self.health.remove_comet(number);
        log::info!("comet {id:?} at {address} is taken out of the list");
    }
}

/// A call under way to a comet.
struct CallUnderWay {
    state: Arc<Mutex<State>>,
    comet: CometNumber,
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.state.lock().expect(NO_PANIC).fanout.end_call(self.comet);
    }
}

/// A permit among the pushes under way.
pub(crate) struct PushPermit<'a>(&'a Comets, CallerId);

impl Drop for PushPermit<'_> {
    fn drop(&mut self) {
        self.0.state().fanout.release_permit(self.1);
    }
}

impl Comets {
    /// No comets yet. Their calls use `token`.
    pub(crate) fn new(token: BearerToken, sessions: Arc<Store>, bounds: CallLimits) -> Self {
        let fanout = Fanout::new(FanoutConfig {
            keys_max: bounds.keys_max,
            limit_ms: millis(bounds.timeout + GRACE),
            permits: PUSHES_MAX,
            caller_permits: CALLER_PUSHES_MAX,
            calls: CALLS_MAX,
        });
        let state =
            State { list: Arc::default(), fanout, health: HealthMonitor::new(HEALTH_TIMES) };
        Self {
            token,
            sessions,
            bounds,
            time: ActiveTime::new(),
            state: Arc::new(Mutex::new(state)),
            gone: watch::Sender::new(()),
            live: Mutex::default(),
        }
    }

    /// Sets the comets for pushes: these, and those that left discovery and still answer. A comet that stays at its
    /// address keeps its health and its connection. Calls under way to a removed comet continue to their end; then its
    /// connection closes. Must be called inside a runtime.
    pub(crate) fn set_list(&self, desired: DesiredComets) {
        let now = self.time.now();
        let mut state = self.state();
        let left = state.left(&desired);
        let State { list, fanout, health } = &mut *state;
        let mut next = CometList::new();
        for (options, origin) in desired.comets().chain(left) {
            let stays = list.iter().find(|(_, comet)| comet.is_at(&options));
            let (number, comet) = match stays {
                Some((number, comet)) => (*number, comet.with(options, origin)),
                None => {
                    let number = fanout.add_comet(&options.id);
                    health.add_comet(now, number);
                    (number, Comet::new(options, origin, &self.token))
                }
            };
            next.insert(number, comet);
        }
        let former = std::mem::replace(list, Arc::new(next));
        for (number, comet) in former.iter() {
            if !state.list.contains_key(number) {
                state.forget(*number, &comet.options);
            }
        }
    }

    pub(crate) fn all(&self) -> Arc<CometList> {
        Arc::clone(&self.state().list)
    }

    /// Calls that a comet is not known to have taken, by server id.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        self.state().fanout.failures().clone()
    }

    /// Sessions by server id, as the store reports them now, or if it does not answer, as it did last.
    pub(crate) async fn live_by_comet(&self) -> BTreeMap<String, u64> {
        let counted = self.sessions.counts().await;
        let mut live = self.live.lock().expect(NO_PANIC);
        if let Ok(counts) = counted {
            *live = counts.by_server;
        }
        live.clone()
    }

    /// Ends every session at the comet with the id `server`, and returns their number.
    pub(crate) async fn end_sessions(&self, server: &str) -> Result<u64, Status> {
        self.sessions.del_server(server).await.map_err(unavailable)
    }

    /// Checks that there is a comet, as a push to all requires.
    pub(crate) fn check_comets(&self) -> Result<(), Status> {
        match self.state().list.is_empty() {
            true => Err(Status::failed_precondition(
                "there is no comet to push to: neither logic_server.comets nor discovery has one",
            )),
            false => Ok(()),
        }
    }

    /// A permit for a push of the current caller.
    pub(crate) fn permit(&self) -> Result<PushPermit<'_>, Status> {
        let caller = CallerId(Caller::current().0);
        let taken = self.state().fanout.acquire_permit(caller);
        let (most, whose) = match taken {
            Ok(()) => return Ok(PushPermit(self, caller)),
            Err(NoPermit::OfAll(most)) => (most, ""),
            Err(NoPermit::OfCaller(most)) => (most, " of this connection"),
        };
        let sentence = "are under way; try again when some are answered";
        Err(Status::resource_exhausted(format!("{most} pushes{whose} {sentence}")))
    }

    /// Makes the calls of the push that `plan` makes: each as soon as its caller has its turn at the comet. `request`
    /// is the request to a comet.
    pub(crate) async fn carry(
        &self,
        plan: impl FnOnce(&Fanout) -> PushFanout,
        request: impl Fn(Target) -> Request,
    ) -> Result<PushResult, Status> {
        let mut push = plan(&self.state().fanout);
        let caller = CallerId(Caller::current().0);
        let (mut calls, mut messages) = (JoinSet::new(), BTreeMap::new());
        // The clock rounds down, so that no call has less than its limit.
        let begin = self.time.now().after(1);
        let mut gone = self.gone.subscribe();
        loop {
            let mut state = self.state();
            let Some(call) = state.fanout.poll_call(&mut push, begin) else { break };
            let Call { part, comet, target } = call;
            let called = &state.list[&comet];
            let (channel, mut turn) = (called.channel(), called.line_up(caller, &target));
            drop(state);
            let under_way = CallUnderWay { state: Arc::clone(&self.state), comet };
            let (request, outgoing) = (request(target), Outgoing::default());
            messages.insert(part, outgoing.clone());
            calls.spawn(async move {
                let _under_way = under_way;
                turn.come().await;
                (part, ask(channel, request, outgoing).await)
            });
        }
        let take_back = |part: PartId| messages[&part].take_back();
        while !push.is_complete() {
            let due = push.poll_timeout().expect("a part without an outcome has a deadline");
            let due = self.time.instant(due);
            select! {
                biased;
                Some(answered) = calls.join_next() => {
                    let (part, answer) = answered.expect("asking does not panic");
                    push.handle_answer(part, answer);
                }
                Ok(()) = gone.changed() => self.state().fanout.leave_out_gone(&mut push, take_back),
                () = sleep_until(due.into()) => push.handle_timeout(self.time.now(), take_back),
            }
        }
        for event in self.state().fanout.count_parts(self.time.now(), &push) {
            log_event(&event);
        }
        let pushed = push.finish().map_err(|refused| match refused {
            PushError::BadRequest(message) => Status::invalid_argument(message),
            PushError::Unavailable(sentence) => Status::unavailable(sentence),
            PushError::Unknown { sentence, servers } => MayHaveTaken(servers).status(sentence),
        })?;
        let ledger = wire_ledger(pushed.ledger, may_have_taken(&pushed.failed));
        let failed = pushed.failed.into_iter();
        let failed =
            failed.map(|failed| FailedServer { message: failed.sentence(), server: failed.server });
        Ok(PushResult { ledger, failed: failed.collect() })
    }

    /// Whether the comet last answered that it takes clients.
    pub(crate) fn is_serving(&self, comet: CometNumber) -> bool {
        *self.state().health.health(comet) == Health::Serving
    }

    /// Whether the comet last answered, even if it drains.
    pub(crate) fn answers(&self, comet: CometNumber) -> bool {
        matches!(self.state().health.health(comet), Health::Serving | Health::NotServing)
    }

    /// Passes an input to the monitor of the comets' health, and logs the changes. Returns the comets to ask, and when
    /// it is due again.
    pub(crate) fn monitor(
        &self,
        hand_in: impl FnOnce(&mut HealthMonitor, Millis),
    ) -> (Vec<Check>, Option<Instant>) {
        let mut state = self.state();
        let State { list, fanout, health: monitor } = &mut *state;
        hand_in(monitor, self.time.now());
        while let Some((comet, health)) = monitor.poll_change() {
            fanout.set_health(comet, &health);
            let comet = &list[&comet];
            if let Health::Gone(_) = health {
                comet.reconnect();
                self.gone.send_replace(());
            }
            log_health(&comet.options, &health);
        }
        state.drop_left();
        let State { health: monitor, .. } = &mut *state;
        let checks = std::iter::from_fn(|| monitor.poll_check()).collect();
        (checks, monitor.poll_timeout().map(|due| self.time.sleep_until(due)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(NO_PANIC)
    }
}

fn log_event(event: &FanoutEvent) {
    match event {
        FanoutEvent::Fails { server, is_unknown: false, message } => {
            log::warn!("comet {server:?} does not take a push: {message:?}");
        }
        FanoutEvent::Fails { server, is_unknown: true, message } => {
            log::warn!("comet {server:?} may have taken a push: {message:?}");
        }
        FanoutEvent::Succeeds { server, failed } => {
            log::info!("comet {server:?} takes pushes again: {failed} calls failed");
        }
    }
}

fn log_health(CometOptions { id, address, .. }: &CometOptions, health: &Health) {
    match health {
        Health::Unknown => {}
        Health::Serving => log::info!("comet {id:?} at {address} is there"),
        Health::NotServing => log::info!("comet {id:?} at {address} takes no clients"),
        Health::Gone(cause) => log::warn!("comet {id:?} at {address} is gone: {cause:?}"),
    }
}

const NO_PANIC: &str = "nothing panics between lock and unlock";

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn wire_ledger(sum: LedgerSum, unanswered: Vec<String>) -> Ledger {
    let LedgerSum { matched, queued, dropped, absent, scheduled, parked } = sum;
    let dropped = dropped.into_iter().collect();
    Ledger { matched, queued, dropped, absent, scheduled, parked, unanswered }
}

/// The store does not answer: a failure of the service, not of the request.
#[allow(clippy::needless_pass_by_value, reason = "what map_err calls it with")]
pub(crate) fn unavailable(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}
