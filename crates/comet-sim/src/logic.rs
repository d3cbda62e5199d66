//! Logic, as the fake control uses it: the real [`LogicClient`] with fake services, and what must hold between them.

use std::collections::{BTreeMap, BTreeSet};

use comet_core::{AuthRequest, ConnId, Message, Millis, Report, ShardId};
use comet_hub::logic::{
    Action, AttemptId, AttemptOutcome, ConnectionId, LogicClient, LogicConfig, PingOutcome, Reply,
    Request, UnknownCode,
};

use crate::logic_services::{Outcome, Services};
use crate::logic_summary::LogicSummary;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::stall_log::StallLog;

/// Simulated time at rest after which logic must know every present key, milliseconds. A client renews its session with
/// a heartbeat once its random time is over.
const HEAL_MS_MAX: u64 = 10_000;

/// A call, while one of its attempts may be under way.
struct Call {
    began_at: Millis,
    /// The addresses that were asked.
    asked: Vec<usize>,
}

pub(crate) struct Logic {
    /// `None`: logic is embedded.
    client: Option<LogicClient>,
    pub(crate) services: Services,
    /// The connections that wait for the answer to a token, and to a message.
    identifying: BTreeSet<ConnId>,
    receiving: BTreeSet<ConnId>,
    /// Attempts under way, with the key if the attempt is a notice.
    attempts: BTreeMap<AttemptId, Option<Box<str>>>,
    calls: BTreeMap<u64, Call>,
    /// Keys that logic gave to a connection and whose end no shard has reported since.
    in_use: BTreeSet<Box<str>>,
    /// Connections to logic that answered a ping and were not closed.
    open: BTreeSet<ConnectionId>,
    closed: BTreeSet<ConnectionId>,
    messages: Vec<(ShardId, Message)>,
    stalls: StallLog,
    /// Since when the world has been at rest without logic knowing every key.
    unhealed_since: Option<Millis>,
}

impl Logic {
    pub(crate) fn new(plan: &Plan) -> Self {
        let services = &plan.services;
        let config = || LogicConfig {
            addresses: (0..services.addresses).map(|index| index.to_string().into()).collect(),
            timeout_ms: services.timeout_ms,
            calls: services.calls,
            ping_ms: services.ping_ms,
            renew_ms: services.renew_ms,
            retry_after_ms: services.retry_after_ms,
            unknown: UnknownCode::Refuse,
            shards: plan.shards,
            seed: services.seed,
        };
        Self {
            client: plan.is_remote().then(|| LogicClient::new(config(), Millis(0))),
            services: Services::new(services, plan.shards),
            identifying: BTreeSet::new(),
            receiving: BTreeSet::new(),
            attempts: BTreeMap::new(),
            calls: BTreeMap::new(),
            in_use: BTreeSet::new(),
            open: BTreeSet::new(),
            closed: BTreeSet::new(),
            messages: Vec::new(),
            stalls: StallLog::default(),
            unhealed_since: None,
        }
    }

    pub(crate) fn handle_report(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        now: Millis,
        report: Report,
    ) -> Result<(), String> {
        let Some(client) = &mut self.client else {
            return Err(format!("logic is embedded, and there comes {report:?}"));
        };
        match &report {
            Report::Identify(AuthRequest { conn, .. }) if !self.identifying.insert(*conn) => {
                return Err(format!("{conn:?} asks twice who it is"));
            }
            Report::Receive { conn, .. } if !self.receiving.insert(*conn) => {
                return Err(format!("{conn:?} has two messages under way"));
            }
            Report::Disconnected { key, .. } => {
                self.in_use.remove(key);
            }
            _ => {}
        }
        let due = client.poll_timeout();
        client.handle_report(now, report);
        self.stalls.look(now, due, client.stalled_ms())?;
        self.follow(rng, plan, now)
    }

    /// Does what is due. Returns the messages with the answers.
    pub(crate) fn turn(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        now: Millis,
    ) -> Result<Vec<(ShardId, Message)>, String> {
        if self.client.is_some() {
            // After a stall the timeout or an outcome may be handled first.
            let is_time_first = rng.percent(50);
            if is_time_first {
                self.handle_timeout(rng, plan, now)?;
            }
            for outcome in self.services.run(rng, plan, now)? {
                if let Outcome::Attempt(attempt, outcome) = &outcome
                    && rng.percent(5)
                {
                    // An outcome that is reported twice counts once.
                    self.handle_outcome(now, Outcome::Attempt(*attempt, outcome.clone()))?;
                    self.follow(rng, plan, now)?;
                }
                self.handle_outcome(now, outcome)?;
                self.follow(rng, plan, now)?;
            }
            self.handle_timeout(rng, plan, now)?;
        }
        Ok(std::mem::take(&mut self.messages))
    }

    /// Whether every request has its answer and no notice is due; renewals do not count.
    pub(crate) fn is_idle(&self) -> bool {
        self.identifying.is_empty()
            && self.receiving.is_empty()
            && self.services.is_idle()
            && self.client.as_ref().is_none_or(LogicClient::is_idle)
    }

    /// At rest: whether logic knows the keys in `held`, which are the present ones.
    ///
    /// # Errors
    /// If logic knows a key that it must not know, or has not learned one in time.
    pub(crate) fn check(
        &mut self,
        plan: &Plan,
        now: Millis,
        held: &BTreeSet<Box<str>>,
        beyond: &BTreeMap<&'static str, u32>,
    ) -> Result<bool, String> {
        if self.client.is_none() {
            return Ok(true);
        }
        let mut missing = held.clone();
        let mut extra = Vec::new();
        for (key, is_excused) in self.services.present(now) {
            if !missing.remove(key) && !is_excused {
                extra.push(key.to_owned());
            }
        }
        if !extra.is_empty() {
            return Err(format!("logic believes {extra:?} to be here, and nothing explains it"));
        }
        let client = self.client.as_ref().expect("logic is remote");
        let is_explained = |key: &str| self.services.may_miss(key) || client.has_notice_of(key);
        if let Some(key) = missing.iter().find(|key| !is_explained(key)) {
            return Err(format!("logic does not know {key:?}, and nothing explains it"));
        }
        if missing.is_empty() && *beyond == self.services.elsewhere {
            self.unhealed_since = None;
            return Ok(true);
        }
        let since = *self.unhealed_since.get_or_insert(now);
        let elsewhere = &self.services.elsewhere;
        let what = || {
            format!(
                "logic does not know {missing:?}; of others {elsewhere:?}, and homes were sent {beyond:?}"
            )
        };
        let is_over =
            (plan.services.is_reliable && !missing.is_empty()) || now > since.after(HEAL_MS_MAX);
        if is_over { Err(what()) } else { Ok(false) }
    }

    pub(crate) fn summary(&self) -> LogicSummary {
        let mut summary = self.services.summary.clone();
        summary.notices_dropped = self.client.as_ref().map_or(0, LogicClient::notices_dropped);
        summary
    }

    fn handle_timeout(&mut self, rng: &mut Rng, plan: &Plan, now: Millis) -> Result<(), String> {
        let Some(client) = &mut self.client else { return Ok(()) };
        if client.poll_timeout().is_some_and(|due| due <= now) {
            let due = client.poll_timeout();
            client.handle_timeout(now);
            self.stalls.look(now, due, client.stalled_ms())?;
        }
        if let Some(due) = client.poll_timeout()
            && due <= now
        {
            return Err(format!("what was due at {due:?} still is"));
        }
        self.follow(rng, plan, now)?;
        let timeout_ms = plan.services.timeout_ms;
        let is_over =
            |call: &Call| call.began_at.after(timeout_ms + self.stalls.since(call.began_at)) <= now;
        let is_late = |id: &&AttemptId| is_over(&self.calls[&id.call]);
        if let Some(late) = self.attempts.keys().find(is_late) {
            return Err(format!("{late:?} goes on after its deadline"));
        }
        self.calls.retain(|_, call| !is_over(call));
        Ok(())
    }

    fn handle_outcome(&mut self, now: Millis, outcome: Outcome) -> Result<(), String> {
        let client = self.client.as_mut().expect("logic is remote");
        let due = client.poll_timeout();
        match outcome {
            Outcome::Connected(connection) => client.handle_connected(now, connection),
            Outcome::ConnectFailed(connection) => {
                client.handle_connect_failed(now, connection, "refused");
            }
            Outcome::Ping(connection, outcome) => {
                if outcome == PingOutcome::Answered && !self.closed.contains(&connection) {
                    self.open.insert(connection);
                }
                client.handle_ping(now, connection, outcome);
            }
            Outcome::Attempt(attempt, outcome) => {
                let is_awaited = self.attempts.remove(&attempt).is_some();
                let given = match &outcome {
                    AttemptOutcome::Replied(Reply::Connected(identity)) if is_awaited => {
                        identity.key.clone()
                    }
                    _ => None,
                };
                client.handle_reply(now, attempt, outcome);
                if let Some(key) = given {
                    if self.services.has_ended(&key) && !client.has_notice_of(&key) {
                        return Err(format!("the new session of {key} ended with the last one"));
                    }
                    self.in_use.insert(key);
                }
            }
            Outcome::Rooms(rooms) => client.handle_rooms(now, rooms),
        }
        self.stalls.look(now, due, client.stalled_ms())
    }

    /// Carries out and checks the actions of the client.
    fn follow(&mut self, rng: &mut Rng, plan: &Plan, now: Millis) -> Result<(), String> {
        let client = self.client.as_mut().expect("logic is remote");
        while let Some((shard, message)) = client.poll_message() {
            let is_asked = match &message {
                Message::Identified { conn, .. } => self.identifying.remove(conn),
                Message::Receipt { conn, .. } => self.receiving.remove(conn),
                Message::RemoteRoomCounts { .. } => {
                    self.services.summary.room_counts += 1;
                    true
                }
                Message::RenewalFailed { .. } => {
                    self.services.summary.renewals_failed += 1;
                    true
                }
                _ => false,
            };
            if !is_asked {
                return Err(format!("nobody asked for {message:?}"));
            }
            self.messages.push((shard, message));
        }
        while client.poll_event().is_some() {}
        while let Some(action) = client.poll_action() {
            match &action {
                Action::Send { attempt, connection, request } => {
                    if !self.open.contains(connection) {
                        return Err(format!("{action:?} over a connection that does not serve"));
                    }
                    let call = Call { began_at: now, asked: Vec::new() };
                    let call = self.calls.entry(attempt.call).or_insert(call);
                    if call.asked.contains(&connection.address) {
                        return Err(format!("{action:?} asks an address again"));
                    }
                    call.asked.push(connection.address);
                    // A call that began before that continues, and its effect is repaired.
                    if let Request::Disconnect { key, .. } = &**request
                        && attempt.attempt == 0
                        && self.in_use.contains(key)
                    {
                        return Err(format!("{action:?} ends a session that is in use"));
                    }
                    let key = match &**request {
                        Request::Heartbeat { key, .. } | Request::Disconnect { key, .. } => {
                            Some(key.clone())
                        }
                        _ => None,
                    };
                    if key.is_some() && self.attempts.values().any(|other| *other == key) {
                        return Err(format!("{action:?} is the second notice of its key"));
                    }
                    self.attempts.insert(*attempt, key);
                }
                Action::Abandon(attempt) => {
                    if self.attempts.remove(attempt).is_none() {
                        return Err(format!("{attempt:?} is abandoned and not under way"));
                    }
                }
                Action::Close(connection) => {
                    self.open.remove(connection);
                    self.closed.insert(*connection);
                }
                Action::Connect(_)
                | Action::Ping(_)
                | Action::CountRooms { .. }
                | Action::Free(_) => {}
            }
            self.services.act(rng, plan, now, action);
        }
        let (under_way, permits) = (self.attempts.len(), plan.services.calls);
        if under_way > permits || client.calls_under_way() > permits {
            return Err(format!("{under_way} attempts are under way, with {permits} permits"));
        }
        Ok(())
    }
}
