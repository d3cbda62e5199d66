//! The fake logic services: several addresses with one store of sessions. They are slow, dead or late, lose their
//! answers, and go down and come up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use comet_core::Millis;
use comet_hub::logic::{
    Action, AttemptId, AttemptOutcome, ConnectionId, PingOutcome, Reply, Request, RoomPieces,
    StatusCode,
};

use crate::logic_faults::{FAILURE, Fault, ServicesPlan, fails};
use crate::logic_summary::LogicSummary;
use crate::plan::{Plan, ROOMS};
use crate::profile;
use crate::rng::Rng;

/// An event for the client.
#[derive(Debug)]
pub(crate) enum Outcome {
    Connected(ConnectionId),
    ConnectFailed(ConnectionId),
    Ping(ConnectionId, PingOutcome),
    Attempt(AttemptId, AttemptOutcome),
    Rooms(Option<RoomPieces>),
}

struct Session {
    /// The key need not be present here, because the answer to its Connect or the notice of its end was lost.
    is_excused: bool,
    expires_at: Millis,
}

struct Attempt {
    id: AttemptId,
    address: usize,
    request: Arc<Request>,
    /// When the service carries it out, if it has not yet.
    deed_at: Option<Millis>,
    reply: Option<AttemptOutcome>,
    /// The key of the session that it made.
    made: Option<Box<str>>,
    outcome_at: Option<Millis>,
    /// What the client gets instead of the reply.
    fault: Option<AttemptOutcome>,
    /// The client still waits for it.
    is_awaited: bool,
}

struct Address {
    is_up: bool,
    changes_at: Millis,
}

pub(crate) struct Services {
    plan: ServicesPlan,
    /// The number of shards of the asking server.
    shards: u16,
    /// No new faults occur; those that have begun continue.
    pub(crate) is_calm: bool,
    addresses: Vec<Address>,
    sessions: BTreeMap<Box<str>, Session>,
    /// Keys that it need not know although they are present, until they are renewed: their session expired, a renewal
    /// failed, or an end was carried out after the client had stopped waiting.
    forgotten: BTreeSet<Box<str>>,
    /// How many keys each user was given.
    numbers: BTreeMap<i64, u32>,
    attempts: Vec<Attempt>,
    /// The outcomes of connections and pings, and counts of rooms, with their times.
    probes: Vec<(Millis, Outcome)>,
    /// The number of successive refused renewals of a key.
    refusals: BTreeMap<Box<str>, u32>,
    /// The calls whose messages were received.
    received: BTreeSet<u64>,
    /// The number of members of each room on this server, as last reported.
    here: BTreeMap<Arc<str>, i32>,
    /// The number of members of each room on other servers.
    pub(crate) elsewhere: BTreeMap<&'static str, u32>,
    pub(crate) summary: LogicSummary,
}

impl Services {
    pub(crate) fn new(plan: &ServicesPlan, shards: u16) -> Self {
        let address = |_| Address { is_up: true, changes_at: Millis(300) };
        Self {
            plan: plan.clone(),
            shards,
            is_calm: false,
            addresses: (0..plan.addresses).map(address).collect(),
            sessions: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            numbers: BTreeMap::new(),
            attempts: Vec::new(),
            probes: Vec::new(),
            refusals: BTreeMap::new(),
            received: BTreeSet::new(),
            here: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            summary: LogicSummary::default(),
        }
    }

    /// The keys that it believes to be present at `now`, and whether each may be absent.
    pub(crate) fn present(&mut self, now: Millis) -> impl Iterator<Item = (&str, bool)> {
        self.expire(now);
        self.sessions.iter().map(|(key, session)| (&**key, session.is_excused))
    }

    /// Whether it has ended the session of `key` because it was asked to.
    pub(crate) fn has_ended(&self, key: &str) -> bool {
        !self.sessions.contains_key(key) && !self.forgotten.contains(key)
    }

    /// Whether it need not know `key` before its next renewal.
    pub(crate) fn may_miss(&self, key: &str) -> bool {
        self.forgotten.contains(key)
    }

    /// Whether everything is done except calls that repeat as long as clients are present.
    pub(crate) fn is_idle(&self) -> bool {
        let goes_on = |attempt: &Attempt| {
            matches!(*attempt.request, Request::Heartbeat { .. } | Request::RenewOnline { .. })
        };
        self.attempts.iter().all(goes_on)
    }

    /// Changes the numbers of members on other servers.
    pub(crate) fn change_elsewhere(&mut self, rng: &mut Rng) {
        self.elsewhere.clear();
        for room in ROOMS {
            if rng.percent(50) {
                self.elsewhere.insert(room, rng.between(1, 100) as u32);
            }
        }
    }

    /// Begins an action of the client.
    pub(crate) fn act(&mut self, rng: &mut Rng, plan: &Plan, now: Millis, action: Action) {
        let soon = now.after(rng.between(0, self.delay_ms_max(plan)));
        match action {
            Action::Connect(connection) => {
                if self.addresses[connection.address].is_up && !self.goes_wrong(rng) {
                    self.probes.push((soon, Outcome::Connected(connection)));
                } else if rng.percent(70) {
                    self.probes.push((soon, Outcome::ConnectFailed(connection)));
                }
            }
            Action::Ping(connection) => {
                let is_up = self.addresses[connection.address].is_up;
                if is_up && !self.goes_wrong(rng) {
                    self.probes.push((soon, Outcome::Ping(connection, PingOutcome::Answered)));
                } else if rng.percent(70) {
                    let failed = PingOutcome::Failed("cut".into());
                    let outcome = if is_up { PingOutcome::NotServing } else { failed };
                    self.probes.push((soon, Outcome::Ping(connection, outcome)));
                }
            }
            // Outcomes on their way may still arrive.
            Action::Close(connection) => {
                if rng.percent(50) {
                    self.probes.retain(|(_, outcome)| outcome.connection() != Some(connection));
                }
            }
            Action::Send { attempt, connection, request } => {
                self.send(rng, plan, now, (attempt, connection.address, request));
            }
            Action::Abandon(id) => {
                self.summary.abandoned += 1;
                let cancels = rng.percent(50);
                if let Some(index) = self.attempts.iter().position(|attempt| attempt.id == id) {
                    self.attempts[index].outcome_at = None;
                    if cancels {
                        self.attempts[index].deed_at = None;
                    }
                    self.stop_awaiting(index);
                }
            }
            Action::CountRooms { sent_rooms } => {
                let counts = ROOMS.map(|room| (Arc::from(room), rng.between(0, 9) as u32));
                let counts = counts.into_iter().filter(|(_, online)| *online > 0).collect();
                let is_counted = !rng.percent(5) || self.is_calm;
                let counts = is_counted.then(|| RoomPieces::cut(counts, sent_rooms.as_ref()));
                self.probes.push((soon, Outcome::Rooms(counts)));
            }
            Action::Free(_) => {}
        }
    }

    /// Carries out what is due, in order. Returns the outcomes for the client.
    ///
    /// # Errors
    /// If a call that must not be repeated was carried out twice.
    pub(crate) fn run(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        now: Millis,
    ) -> Result<Vec<Outcome>, String> {
        let mut outcomes = Vec::new();
        loop {
            let address = (0..self.addresses.len()).map(|index| (self.changes_at(index), 0, index));
            let deeds = self
                .attempts
                .iter()
                .enumerate()
                .filter_map(|(index, attempt)| attempt.deed_at.map(|at| (at, 1, index)));
            let answers = self
                .attempts
                .iter()
                .enumerate()
                .filter_map(|(index, attempt)| attempt.outcome_at.map(|at| (at, 2, index)));
            let probes = self.probes.iter().enumerate().map(|(index, (at, _))| (*at, 3, index));
            let Some((at, what, index)) = address
                .chain(deeds)
                .chain(answers)
                .chain(probes)
                .filter(|(at, ..)| *at <= now)
                .min()
            else {
                return Ok(outcomes);
            };
            match what {
                0 => self.change(rng, at, index),
                1 => self.perform(rng, plan, at, index)?,
                2 => {
                    let attempt = &mut self.attempts[index];
                    attempt.outcome_at = None;
                    let fault = attempt.fault.take();
                    let is_delivered = fault.is_none();
                    let outcome = fault.or_else(|| attempt.reply.clone());
                    let outcome = outcome.expect("an answer comes after the deed");
                    outcomes.push(Outcome::Attempt(attempt.id, outcome));
                    if is_delivered {
                        attempt.is_awaited = false;
                        self.attempts.remove(index);
                    } else {
                        self.stop_awaiting(index);
                    }
                }
                _ => outcomes.push(self.probes.remove(index).1),
            }
        }
    }

    /// The longest time until a call is carried out, and from there to its answer.
    fn delay_ms_max(&self, plan: &Plan) -> u64 {
        // At rest nothing is late.
        let most = if self.is_calm { self.plan.timeout_ms / 8 } else { u64::MAX };
        plan.auth_ms_max.min(most)
    }

    fn goes_wrong(&self, rng: &mut Rng) -> bool {
        !self.is_calm && rng.percent(self.plan.fault_percent)
    }

    fn changes_at(&self, address: usize) -> Millis {
        let Address { is_up, changes_at } = self.addresses[address];
        match self.plan.has_outages && (!self.is_calm || !is_up) {
            true if self.is_calm => Millis(0),
            true => changes_at,
            false => Millis(u64::MAX),
        }
    }

    /// Makes an address go down or come up.
    fn change(&mut self, rng: &mut Rng, at: Millis, index: usize) {
        let address = &mut self.addresses[index];
        address.is_up = !address.is_up;
        let pause = if address.is_up { (200, 2_000) } else { (20, 800) };
        address.changes_at = at.after(rng.between(pause.0, pause.1));
        if address.is_up {
            return;
        }
        self.summary.outages += 1;
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.address == index) {
            if attempt.is_awaited {
                attempt.outcome_at = Some(at.after(rng.between(0, 5)));
                attempt.fault = Some(AttemptOutcome::Broken { was_sent: true });
            }
            if rng.percent(50) {
                attempt.deed_at = None;
            }
        }
        self.attempts.retain(|attempt| attempt.is_awaited || attempt.deed_at.is_some());
    }

    fn send(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        now: Millis,
        (id, address, request): (AttemptId, usize, Arc<Request>),
    ) {
        self.summary.attempts += 1;
        self.summary.retries += u64::from(id.attempt > 0);
        let deed_at = now.after(rng.between(0, self.delay_ms_max(plan)));
        let outcome_at = deed_at.after(rng.between(0, self.delay_ms_max(plan)));
        let late = now.after(self.plan.timeout_ms + rng.between(0, 400));
        let fault = if !self.addresses[address].is_up {
            Some(rng.pick(&[Fault::Down, Fault::Down, Fault::Silence]))
        } else if self.goes_wrong(rng) {
            Some(rng.pick(&Fault::RANDOM))
        } else {
            None
        };
        if let Some(fault) = fault {
            self.summary.faults[fault as usize] += 1;
        }
        let broken = |was_sent| Some(AttemptOutcome::Broken { was_sent });
        let (deed_at, outcome_at, fault) = match fault {
            None => (Some(deed_at), Some(outcome_at), None),
            Some(Fault::Refuses) => {
                let notice =
                    matches!(*request, Request::Heartbeat { .. } | Request::Disconnect { .. });
                let code = rng.pick(&[StatusCode::UNAVAILABLE, StatusCode::RESOURCE_EXHAUSTED]);
                let code = if notice && rng.percent(50) { StatusCode::INTERNAL } else { code };
                let refused = AttemptOutcome::Refused { code, sentence: "not now".into() };
                (None, Some(deed_at), Some(refused))
            }
            Some(Fault::NotSent) => (None, Some(deed_at), broken(false)),
            Some(Fault::Down) => (None, Some(deed_at), broken(rng.percent(50))),
            Some(Fault::CutBefore) => (None, Some(deed_at), broken(true)),
            Some(Fault::CutAfter) => (Some(deed_at), Some(outcome_at), broken(true)),
            Some(Fault::LateAnswer) => (Some(deed_at), Some(late), None),
            Some(Fault::LateDeed) => (Some(late), None, None),
            Some(Fault::Silence) => (None, None, None),
            Some(Fault::TimesOut) => {
                (Some(deed_at), Some(outcome_at), Some(AttemptOutcome::TimedOut))
            }
        };
        self.attempts.push(Attempt {
            id,
            address,
            request,
            deed_at,
            reply: None,
            made: None,
            outcome_at,
            fault,
            is_awaited: true,
        });
    }

    /// The client stops waiting for the attempt's reply, or does not get it.
    fn stop_awaiting(&mut self, index: usize) {
        let attempt = &mut self.attempts[index];
        attempt.is_awaited = false;
        if let Request::Heartbeat { key, .. } = &*attempt.request
            && attempt.reply.is_none()
        {
            self.forgotten.insert(key.clone());
        }
        let key = match (&*attempt.request, &attempt.made) {
            (_, Some(made)) => Some(made),
            // It was not carried out. After a few attempts the client gives up.
            (Request::Disconnect { key, .. }, _) if attempt.reply.is_none() => Some(key),
            _ => None,
        };
        if let Some(session) = key.and_then(|key| self.sessions.get_mut(key)) {
            session.is_excused = true;
        }
        if attempt.deed_at.is_none() {
            self.attempts.remove(index);
        }
    }

    fn perform(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        at: Millis,
        index: usize,
    ) -> Result<(), String> {
        self.expire(at);
        self.attempts[index].deed_at = None;
        let Attempt { id, is_awaited, .. } = self.attempts[index];
        let request = Arc::clone(&self.attempts[index].request);
        self.summary.late_deeds += u64::from(!is_awaited);
        let done = AttemptOutcome::Replied(Reply::Done);
        let reply = match &*request {
            Request::Connect { token, cookie } => {
                let reply = self.decide(rng, plan, (token, cookie));
                if let AttemptOutcome::Replied(Reply::Connected(identity)) = &reply {
                    let key = identity.key.clone().expect("logic names every key");
                    self.renew(at, key.clone(), !is_awaited);
                    self.attempts[index].made = Some(key);
                }
                reply
            }
            Request::Receive { .. } if !self.received.insert(id.call) => {
                return Err(format!("a message was received twice: {request:?}"));
            }
            Request::Receive { body, .. } if fails(body) => {
                self.summary.failures += 1;
                AttemptOutcome::Refused {
                    code: StatusCode::PERMISSION_DENIED,
                    sentence: FAILURE.into(),
                }
            }
            Request::Receive { .. } => done,
            Request::Heartbeat { key, .. } if self.refuses(key) => {
                self.forgotten.insert(key.clone());
                AttemptOutcome::Refused {
                    code: StatusCode::INTERNAL,
                    sentence: "the store is away".into(),
                }
            }
            Request::Heartbeat { key, .. } => {
                self.summary.renewals += 1;
                self.renew(at, key.clone(), !is_awaited);
                done
            }
            Request::Disconnect { key, .. } => {
                self.summary.departures += 1;
                self.sessions.remove(key);
                if !is_awaited {
                    self.forgotten.insert(key.clone());
                }
                done
            }
            Request::RenewOnline { pieces, piece } => {
                // As in goim's logic, a room that is not named keeps its count. If the answer would be late, the caller
                // has cancelled the call, so it is not carried out.
                if is_awaited {
                    self.here.extend(pieces.rooms(*piece).iter().cloned());
                }
                let here = |room: &str| self.here.get(room).copied().unwrap_or(0);
                let elsewhere = |room: &str| self.elsewhere.get(room).copied().unwrap_or(0);
                let all = ROOMS.map(|room| (room.to_owned(), here(room) + elsewhere(room) as i32));
                AttemptOutcome::Replied(Reply::Elsewhere(pieces.elsewhere(all, self.shards)))
            }
        };
        self.attempts[index].reply = Some(reply);
        if !is_awaited {
            self.attempts.remove(index);
        }
        Ok(())
    }

    fn decide(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        (token, cookie): (&[u8], &str),
    ) -> AttemptOutcome {
        if rng.percent(5) {
            let code = StatusCode::UNAVAILABLE;
            return AttemptOutcome::Refused { code, sentence: "the store is away".into() };
        }
        let mut identity = match profile::auth(token, cookie, plan) {
            Ok(identity) => identity,
            Err(refusal) => {
                let (code, sentence) = (StatusCode::UNAUTHENTICATED, refusal.into());
                return AttemptOutcome::Refused { code, sentence };
            }
        };
        let user = identity.user;
        let key = identity.key.take().unwrap_or_else(|| {
            let number = self.numbers.entry(user).or_default();
            *number += 1;
            format!("{user}_{number}").into()
        });
        identity.key = Some(key);
        AttemptOutcome::Replied(Reply::Connected(identity))
    }

    /// Whether a renewal of the key is refused.
    fn refuses(&mut self, key: &str) -> bool {
        let refusals = self.refusals.entry(key.into()).or_default();
        *refusals = (*refusals + 1) % 5;
        self.plan.refuses_renewals && *refusals != 0
    }

    fn renew(&mut self, now: Millis, key: Box<str>, is_excused: bool) {
        let expires_at = now.after(self.plan.expire_ms);
        self.forgotten.remove(&key);
        self.sessions.insert(key, Session { is_excused, expires_at });
    }

    fn expire(&mut self, now: Millis) {
        for (key, _) in self.sessions.extract_if(.., |_, session| session.expires_at <= now) {
            self.summary.expired += 1;
            self.forgotten.insert(key);
        }
    }
}

impl Outcome {
    fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Connected(connection)
            | Self::ConnectFailed(connection)
            | Self::Ping(connection, _) => Some(*connection),
            Self::Attempt(..) | Self::Rooms(_) => None,
        }
    }
}
