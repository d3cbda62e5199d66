//! The control thread: the real hub with an inbox of reports, callers that push, leave and time out, and a thread that
//! may stall.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use comet_core::{
    BlockedNetwork, CallId, Kick, Limits, LiveTraces, Message, Millis, Push, Report, ShardId,
    home_of_room,
};
use comet_hub::{CallerId, Hub};

use crate::activity;
use crate::call::{Call, Sums};
use crate::call_checker::CallChecker;
use crate::elsewhere::Elsewhere;
use crate::live_traces::LiveTracing;
use crate::logic::Logic;
use crate::paced::PacedChecker;
use crate::plan::{OPERATIONS, OTHER_TRACE_USERS, Plan, ROOMS, caller_tokens};
use crate::posts::{Context, Posts};
use crate::request::{Request, encode};
use crate::source::blocked;
use crate::stall_log::StallLog;
use crate::trace::trace;
use crate::trace_log::TraceLog;

pub(crate) struct Control {
    hub: Hub<u64>,
    hub_stalls: StallLog,
    /// A command was given since the hub's last turn.
    must_turn: bool,
    inbox: VecDeque<Report>,
    inbox_max: usize,
    /// The thread is stalled until then.
    stalled_until: Millis,
    pub(crate) stalls: u64,
    pub(crate) calls: CallChecker,
    pub(crate) has_kicked: bool,
    /// Clients were moved off.
    pub(crate) has_moved_off: bool,
    /// The number of reloads of the configuration.
    pub(crate) reloads: u64,
    pub(crate) paced: PacedChecker,
    /// How many times each shard has reported its drain.
    pub(crate) drained: Vec<u32>,
    pub(crate) logic: Logic,
    pub(crate) elsewhere: Elsewhere,
    pub(crate) trace_log: TraceLog,
    pub(crate) live_tracing: LiveTracing,
    /// The members on other hosts, as last reported to the homes.
    pub(crate) remote_members: BTreeMap<&'static str, u32>,
}

impl Control {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            hub: Hub::new(plan.shards, Arc::new(plan.limits.clone())),
            hub_stalls: StallLog::default(),
            must_turn: false,
            inbox: VecDeque::new(),
            inbox_max: plan.inbox,
            stalled_until: Millis(0),
            stalls: 0,
            calls: CallChecker::new(),
            has_kicked: false,
            has_moved_off: false,
            reloads: 0,
            paced: PacedChecker::default(),
            drained: vec![0; usize::from(plan.shards)],
            logic: Logic::new(plan),
            elsewhere: Elsewhere::default(),
            trace_log: TraceLog::default(),
            live_tracing: LiveTracing::default(),
            remote_members: BTreeMap::new(),
        }
    }

    /// Continues as the control thread of another process, with `shards` shards. No call is under way.
    pub(crate) fn upgrade(&mut self, shards: u16) {
        let last = CallId(self.calls.next_id() - 1);
        self.hub = Hub::new(shards, Arc::clone(self.hub.limits())).after(last);
        self.hub_stalls = StallLog::default();
        self.must_turn = true;
        self.drained = vec![0; usize::from(shards)];
    }

    /// The present limits.
    pub(crate) fn limits(&self) -> &Arc<Limits> {
        self.hub.limits()
    }

    /// Acts in a busy phase, besides turns: callers come and leave, and the thread stalls.
    pub(crate) fn act(&mut self, mut context: Context<'_>) -> Result<(), String> {
        let Context { now, rng, plan, .. } = &mut context;
        if *now < self.stalled_until {
            return Ok(());
        }
        if rng.below(1000) < plan.stall_permille {
            self.stalls += 1;
            self.stalled_until = now.after(rng.between(5, 200));
            trace!(context, "control stalls until {:?}", self.stalled_until);
            return Ok(());
        }
        if rng.percent(plan.leave_percent) {
            self.leave(&mut context)?;
        }
        if context.rng.below(1000) < context.plan.move_off_permille {
            self.move_off(&mut context)?;
        }
        if context.rng.below(1000) < context.plan.live_trace_permille {
            self.change_live_traces(&mut context)?;
        }
        if context.rng.percent(context.plan.push_percent) {
            self.push(&mut context)?;
        }
        Ok(())
    }

    /// Begins one call, or a burst of calls to one room; or reloads the configuration.
    fn push(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        let rng = &mut *context.rng;
        if rng.below(1000) < context.plan.list_permille {
            let request = match rng.percent(80) {
                true => Request::random_list(rng, context.plan.shards),
                false if rng.percent(50) => Request::random_history(rng),
                false => Request::Top,
            };
            return self.begin(context, &request);
        }
        let request = match rng.below(100) {
            0..30 => Request::random_keys(rng),
            30..45 => Request::random_users(rng),
            45..75 => {
                let room = rng.below(ROOMS.len()) as u8;
                for _ in 1..rng.pick(&[1, 1, 2, 10]) {
                    self.begin(context, &Request::Room(room))?;
                }
                Request::Room(room)
            }
            75..90 => Request::All,
            90..94 => Request::random_pace(rng),
            94..96 if context.plan.is_remote() => {
                self.logic.services.change_elsewhere(rng);
                return Ok(());
            }
            94..96 => return self.report_remote_members(context),
            96..98 if context.plan.is_configured => return self.configure(context),
            _ if rng.percent(50) => Request::Snapshot,
            _ => Request::Rooms,
        };
        self.begin(context, &request)
    }

    fn begin(&mut self, context: &mut Context<'_>, request: &Request) -> Result<(), String> {
        let Context { now, rng, plan, .. } = context;
        let id = self.calls.next_id();
        let (kind, operation) = (request.kind(), rng.pick(&OPERATIONS));
        // Pushes whose order is checked come from one caller.
        let caller = CallerId(match request {
            Request::Keys(_) => 1,
            Request::Users(_) => 2,
            Request::Room(room) => 10 + u64::from(*room),
            _ => 3,
        });
        let limit_ms = rng.pick(plan.call_limits_ms);
        // Occasionally the connections are closed instead.
        let asks = matches!(
            request,
            Request::Snapshot
                | Request::Rooms
                | Request::List(_)
                | Request::Top
                | Request::History(_)
        );
        let is_kick =
            !(asks || matches!(request, Request::Paced(_))) && rng.below(1000) < plan.kick_permille;
        let push = match is_kick {
            true => Push::kick(Kick {
                sentence: "go".into(),
                retry_after_ms: rng.percent(50).then_some(1_000),
            }),
            false => encode(rng, plan, id, kind, operation),
        };
        self.has_kicked |= is_kick;
        let messages = request.messages(CallId(id), plan.shards, &push);
        self.calls.add(Call {
            id,
            caller,
            kind,
            operation,
            collapse_id: push.collapse_id.clone(),
            is_kick,
            keys: if let Request::Keys(keys) = request { keys.clone() } else { Vec::new() },
            users: if let Request::Users(users) = request { users.clone() } else { Vec::new() },
            limit_ms,
            deadline: now.after(limit_ms),
            unposted: messages.iter().map(|(shard, _)| *shard).collect(),
            posted: 0,
            reported: 0,
            partials: 0,
            sums: Sums::default(),
            end: None,
        });
        trace!(context, "call {id} to {kind:?}, {limit_ms} ms");
        let now = context.now;
        let due = self.hub.poll_timeout();
        let begun = self.command(context, |hub, inboxes| {
            hub.begin((now, limit_ms), inboxes, (caller, id), |_| messages)
        })?;
        self.hub_stalls.look(now, due, self.hub.stalled_ms())?;
        match begun {
            Ok(CallId(begun)) if begun == id => Ok(()),
            other => Err(format!("call {id} begins as {other:?}")),
        }
    }

    /// Makes a caller leave, perhaps one whose call has just ended.
    fn leave(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        let made = self.calls.calls().len();
        let recent = made.min(10);
        if recent == 0 {
            return Ok(());
        }
        let id = self.calls.calls()[made - 1 - context.rng.below(recent)].id;
        trace!(context, "the caller of {id} leaves");
        self.hub.forget(CallId(id));
        self.calls.leave(id)
    }

    /// Drains every shard. An impatient operator does it twice.
    pub(crate) fn drain(&mut self, mut context: Context<'_>) -> Result<(), String> {
        let mut over_ms = context.plan.drain_over_ms;
        let retry_after_ms = context.plan.retry_after_ms;
        for _ in 0..context.rng.pick(&[1, 1, 2]) {
            self.command(&mut context, |hub, inboxes| hub.drain(inboxes, over_ms, retry_after_ms))?;
            over_ms = context.rng.pick(&[0, over_ms]);
        }
        Ok(())
    }

    /// Moves off some clients of each shard, or all connections, or stops that.
    fn move_off(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        let (over_ms, retry_after_ms) = (context.plan.drain_over_ms, context.plan.retry_after_ms);
        let most: Vec<_> = (0..context.plan.shards)
            .map(|_| context.rng.pick(&[None, Some(0), Some(1), Some(3)]))
            .collect();
        trace!(context, "{most:?} clients are moved off over {over_ms} ms");
        self.has_moved_off = true;
        self.command(context, |hub, inboxes| hub.move_off(inboxes, most, (over_ms, retry_after_ms)))
    }

    /// Reloads the configuration: the limits of the plan, or other ones that are at least half of them.
    fn configure(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        self.reloads += 1;
        let mut limits: Limits = context.plan.limits.clone();
        if context.rng.percent(50) {
            limits.trace_users = OTHER_TRACE_USERS.into();
            limits.user_memory_ms = 50;
        }
        limits.is_out_of_memory = context.rng.percent(10);
        limits.takes_clients = !context.rng.percent(10);
        limits.refuses_pushes = context.rng.percent(10);
        if context.plan.has_caller_tokens {
            limits.callers.tokens = caller_tokens(context.rng.percent(70));
        }
        if context.plan.is_blocking && context.rng.percent(50) {
            let until = context.now.after(context.rng.between(0, 5_000));
            let block = BlockedNetwork { network: blocked(), until };
            limits.blocklist =
                limits.blocklist.with(context.now, block).expect("one is not too many");
        }
        if context.rng.percent(50) {
            for millis in [&mut limits.handshake_ms, &mut limits.write_ms, &mut limits.linger_ms] {
                *millis = millis.div_ceil(2);
            }
            limits.svr_proto = limits.svr_proto.div_ceil(2);
            limits.outbox_bytes = limits.outbox_bytes.div_ceil(2);
            limits.mesh_backlog /= 2;
        }
        self.command(context, |hub, inboxes| {
            drop(hub.configure(inboxes, |now| Limits { traces: now.traces, ..limits }));
        })
    }

    /// Makes an operator begin or end a live trace.
    fn change_live_traces(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        let traces = self.live_tracing.change(context.rng, &self.hub.limits().traces);
        trace!(context, "live traces: {traces:?}");
        self.command(context, |hub, inboxes| {
            drop(hub.configure(inboxes, |now| Limits { traces, ..now }));
        })
    }

    /// The live traces under way.
    pub(crate) fn live_traces(&self) -> &LiveTraces {
        &self.hub.limits().traces
    }

    /// Makes other hosts report the members of their rooms.
    fn report_remote_members(&mut self, context: &mut Context<'_>) -> Result<(), String> {
        self.remote_members.clear();
        for room in ROOMS {
            if context.rng.percent(50) {
                self.remote_members.insert(room, context.rng.between(1, 100) as u32);
            }
        }
        let shards = context.plan.shards;
        for shard in (0..shards).map(ShardId) {
            let here = |room: &&str| home_of_room(room, shards) == shard;
            let rooms = self.remote_members.iter().filter(|(room, _)| here(room));
            let rooms = rooms.map(|(room, members)| ((*room).into(), *members)).collect();
            self.tell(context, shard, Message::RemoteRoomCounts { rooms })?;
        }
        Ok(())
    }

    /// Notes the members on other hosts that logic has counted, of the rooms whose home is `shard`.
    fn note_remote_members(&mut self, shard: ShardId, message: &Message) -> Result<(), String> {
        if let Message::RemoteRoomCounts { rooms } = message {
            let shards = self.drained.len() as u16;
            self.remote_members.retain(|room, _| home_of_room(room, shards) != shard);
            for (room, members) in rooms {
                let known = ROOMS.into_iter().find(|known| **known == **room);
                self.remote_members.insert(known.ok_or("a room nobody knows")?, *members);
            }
        }
        Ok(())
    }

    fn tell(
        &mut self,
        context: &mut Context<'_>,
        shard: ShardId,
        message: Message,
    ) -> Result<(), String> {
        let is_on_its_way =
            self.command(context, |hub, inboxes| hub.tell(inboxes, shard, message))?;
        is_on_its_way.then_some(()).ok_or_else(|| "a lane is full".to_owned())
    }

    /// Gives the hub a command, and makes it take a turn afterwards.
    fn command<T>(
        &mut self,
        context: &mut Context<'_>,
        command: impl FnOnce(&mut Hub<u64>, &mut Posts<'_>) -> T,
    ) -> Result<T, String> {
        self.must_turn = true;
        let mut posts = Posts::new(context, &mut self.calls);
        let result = command(&mut self.hub, &mut posts);
        posts.violation.map_or(Ok(result), Err)
    }

    /// Takes a report into the inbox.
    ///
    /// # Errors Returns the report if the inbox is full.
    pub(crate) fn offer(&mut self, report: Report) -> Result<(), Box<Report>> {
        if self.inbox.len() >= self.inbox_max {
            return Err(Box::new(report));
        }
        self.inbox.push_back(report);
        Ok(())
    }

    /// A turn of the thread, if it wakes: it passes on what logic has decided, and the hub takes a turn. `true`: others
    /// may have something to do.
    pub(crate) fn turn(&mut self, mut context: Context<'_>) -> Result<bool, String> {
        let Context { now, rng, plan, .. } = &mut context;
        let now = *now;
        if now < self.stalled_until {
            return Ok(false);
        }
        let mut is_active = false;
        for (shard, message) in self.logic.turn(rng, plan, now)? {
            is_active = true;
            self.note_remote_members(shard, &message)?;
            self.tell(&mut context, shard, message)?;
        }
        while let Some((shard, message)) = self.elsewhere.poll(now) {
            is_active = true;
            self.command(&mut context, |hub, inboxes| hub.answer(inboxes, shard, message))?;
        }
        let is_due = self.hub.poll_timeout().is_some_and(|due| due <= now);
        if self.must_turn || !self.inbox.is_empty() || is_due {
            self.must_turn = false;
            is_active |= self.take_reports(&mut context)?;
            let mut posts = Posts::new(&mut context, &mut self.calls);
            self.hub.flush(now, &mut posts);
            is_active |= posts.posted > 0;
            posts.violation.map_or(Ok(()), Err)?;
            let due = self.hub.poll_timeout();
            self.hub.handle_timeout(now);
            self.hub_stalls.look(now, due, self.hub.stalled_ms())?;
            self.take_outcomes(now)?;
        }
        self.calls.check_open(now, &self.hub_stalls)?;
        let (open, under_way) = (self.calls.open().len(), self.hub.calls_under_way());
        if open != under_way {
            return Err(format!("{under_way} calls are under way, and {open} callers wait"));
        }
        Ok(is_active)
    }

    /// Takes reports from the inbox: all of them after a stall, otherwise some.
    fn take_reports(&mut self, context: &mut Context<'_>) -> Result<bool, String> {
        let mut is_active = false;
        let has_stalled = self.stalled_until > Millis(0);
        self.stalled_until = Millis(0);
        while has_stalled || !context.rng.percent(20) {
            let Some(report) = self.inbox.pop_front() else { break };
            is_active |= activity::is_active_report(&report);
            self.check_report(&report)?;
            if let Some(report) = self.hub.handle_report(report) {
                self.take_unclaimed(context, report)?;
            }
            if context.rng.percent(50) {
                self.take_outcomes(context.now)?;
            }
        }
        Ok(is_active)
    }

    fn check_report(&mut self, report: &Report) -> Result<(), String> {
        match report {
            Report::Drained { shard } => {
                self.drained[usize::from(shard.0)] += 1;
                return Ok(());
            }
            Report::Identify(_)
            | Report::Receive { .. }
            | Report::Heartbeat { .. }
            | Report::Disconnected { .. }
            | Report::Reclaimed { .. }
            | Report::RoomInterest { .. }
            | Report::Called { .. }
            | Report::Trace(_) => return Ok(()),
            Report::PacedEnded { call, shard, tally } => {
                return self.paced.end(*call, *shard, *tally);
            }
            Report::Scheduled { call, shard, .. } => self.paced.begin(*call, *shard)?,
            _ => {}
        }
        self.calls.report(report)
    }

    /// Takes a report that belongs to no call.
    fn take_unclaimed(&mut self, context: &mut Context<'_>, report: Report) -> Result<(), String> {
        let Context { now, rng, plan, .. } = context;
        match report {
            Report::Identify(_)
            | Report::Receive { .. }
            | Report::Heartbeat { .. }
            | Report::Disconnected { .. }
            | Report::Reclaimed { .. } => self.logic.handle_report(rng, plan, *now, report),
            Report::Called { call, shard, target: _, push } => {
                let timeout_ms = plan.limits.callers.timeout_ms;
                self.elsewhere.call((rng, *now), timeout_ms, (shard, call, &push));
                Ok(())
            }
            Report::Trace(event) => {
                self.live_tracing.check(&event)?;
                self.trace_log.add(plan, &event)
            }
            // These were checked before, or matter to other hosts only.
            Report::PacedEnded { .. } | Report::RoomInterest { .. } => Ok(()),
            // Their calls are over.
            Report::Rooms { .. } | Report::Connections { .. } | Report::History { .. } => Ok(()),
            other => Err(format!("the hub does not take {other:?}")),
        }
    }

    fn take_outcomes(&mut self, now: Millis) -> Result<(), String> {
        while let Some(ended) = self.hub.poll_outcome() {
            self.calls.end(now, ended)?;
        }
        Ok(())
    }

    /// Whether every call has ended, and every message was posted and answered.
    pub(crate) fn is_idle(&self) -> bool {
        let mut shards = (0..self.drained.len()).map(|shard| ShardId(shard as u16));
        self.calls.open().is_empty()
            && self.calls.is_settled()
            && self.inbox.is_empty()
            && self.logic.is_idle()
            && self.elsewhere.is_idle()
            && shards.all(|shard| self.hub.waiting(shard) == 0)
    }

    /// At a quiet point: checks that the hub agrees that everything is done.
    pub(crate) fn check_quiet(&mut self) -> Result<(), String> {
        self.calls.check_quiet()?;
        let drained = self.drained.iter().filter(|times| **times > 0).count();
        if self.hub.drained() != drained {
            return Err(format!("{} shards are drained, not {drained}", self.hub.drained()));
        }
        Ok(())
    }
}
