//! A run of the fan-out of a logic service: the real decisions of [`comet_hub::fanout`], with fake comets that are
//! slow, dead, late or lose their answers, and are removed and added again, and with callers that leave.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use comet_core::Millis;
use comet_hub::CallerId;
use comet_hub::fanout::{
    Call, CallFailure, Check, CometNumber, FailedComet, FailureKind, Fanout, FanoutConfig,
    FanoutResult, Health, HealthMonitor, HealthTimes, LedgerSum, PartId, PushError, PushFanout,
    Target,
};

use crate::fanout_summary::FanoutSummary;
use crate::rng::Rng;

const LIMIT_MS: u64 = 1_000;
const HEALTH_TIMES: HealthTimes = HealthTimes { rest_ms: 300, limit_ms: 1_500 };
const KEYS_MAX: usize = 3;
/// The limit of calls to one comet.
const CALLS_MAX: usize = 4;
/// The number of steps of a run.
const STEPS: u32 = 400;
/// The longest step, milliseconds.
const STEP_MS_MAX: u64 = 40;

/// How a comet behaves at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behaviour {
    Quick,
    Slow,
    /// It answers after the deadline.
    Late,
    /// A call has no effect.
    Dead,
    /// It carries out its part, and the answer is lost.
    LosesAnswers,
    Refuses,
}

struct Comet {
    id: String,
    number: CometNumber,
    behaviour: Behaviour,
    changes_at: Millis,
}

/// A call under way.
struct Part {
    id: String,
    comet: CometNumber,
    due: Millis,
    /// `None`: no answer comes.
    answer_at: Option<Millis>,
    answer: Result<LedgerSum, CallFailure>,
    /// No connection has its message yet.
    waits: bool,
}

struct Push {
    fanout: PushFanout,
    parts: BTreeMap<PartId, Part>,
    /// The outcome that the push must have. Of comets that failed, whether they may have taken their part.
    expected: LedgerSum,
    failed: Vec<(String, bool)>,
    taken: usize,
    is_bad: bool,
    over_by: Millis,
}

struct World {
    rng: Rng,
    now: Millis,
    permits: usize,
    comets: Vec<Comet>,
    fanout: Fanout,
    health: HealthMonitor,
    checks: Vec<(Option<Millis>, Check, Health)>,
    pushes: Vec<Push>,
    is_calm: bool,
    summary: FanoutSummary,
}

/// Runs the decisions of `seed`.
///
/// # Errors
/// The first violation.
pub(crate) fn run(seed: u64) -> Result<FanoutSummary, String> {
    let mut rng = Rng::new(seed);
    let permits = rng.between(1, 6) as usize;
    let mut fanout = Fanout::new(FanoutConfig {
        keys_max: KEYS_MAX,
        limit_ms: LIMIT_MS,
        permits,
        caller_permits: permits,
        calls: CALLS_MAX,
    });
    let mut health = HealthMonitor::new(HEALTH_TIMES);
    let comet = |comet| {
        let id = format!("comet-{comet}");
        let number = fanout.add_comet(&id);
        health.add_comet(Millis(0), number);
        Comet { id, number, behaviour: Behaviour::Quick, changes_at: Millis(0) }
    };
    let comets = (0..rng.between(1, 4)).map(comet).collect();
    let mut world = World {
        rng,
        now: Millis(0),
        permits,
        comets,
        fanout,
        health,
        checks: Vec::new(),
        pushes: Vec::new(),
        is_calm: false,
        summary: FanoutSummary::default(),
    };
    for _ in 0..STEPS {
        world.step()?;
    }
    world.rest()?;
    Ok(world.summary)
}

impl World {
    fn step(&mut self) -> Result<(), String> {
        self.now = self.now.after(self.rng.between(0, STEP_MS_MAX));
        for comet in &mut self.comets {
            if comet.changes_at <= self.now {
                comet.changes_at = self.now.after(self.rng.between(200, 3_000));
                comet.behaviour = match self.is_calm {
                    true => Behaviour::Quick,
                    false => self.rng.pick(&[
                        Behaviour::Quick,
                        Behaviour::Quick,
                        Behaviour::Slow,
                        Behaviour::Late,
                        Behaviour::Dead,
                        Behaviour::LosesAnswers,
                        Behaviour::Refuses,
                    ]),
                };
            }
        }
        self.ask_comets();
        if !self.is_calm && self.rng.percent(2) {
            self.take_out_and_add();
        }
        if !self.is_calm && self.rng.percent(30) {
            self.push()?;
        }
        if !self.pushes.is_empty() && self.rng.percent(3) {
            let left = self.rng.below(self.pushes.len());
            let push = self.pushes.remove(left);
            push.end_calls(&mut self.fanout);
            self.fanout.release_permit(CallerId::default());
            self.summary.left += 1;
        }
        for push in &mut self.pushes {
            push.answer(self.now, &mut self.fanout, &mut self.summary);
        }
        let (over, under_way) = self.pushes.drain(..).partition(|push| push.fanout.is_complete());
        self.pushes = under_way;
        for push in over {
            self.end(push)?;
        }
        let taken = self.fanout.permits_taken();
        if taken != self.pushes.len() || taken > self.permits {
            let (under_way, permits) = (self.pushes.len(), self.permits);
            return Err(format!("{taken} of {permits} places taken, {under_way} under way"));
        }
        for Comet { id, number, .. } in &self.comets {
            let parts = self.pushes.iter().flat_map(|push| push.parts.values());
            let under_way = parts.filter(|part| part.comet == *number).count();
            let counted = self.fanout.calls(*number);
            if counted != under_way || counted > CALLS_MAX {
                return Err(format!("{counted} calls to {id}, {under_way} under way"));
            }
        }
        let late = self.pushes.iter().find(|push| push.over_by <= self.now);
        late.map_or(Ok(()), |push| Err(format!("a push goes on after {:?}", push.over_by)))
    }

    /// All comets are healthy: checks that everything ends, and that they are found to serve.
    fn rest(&mut self) -> Result<(), String> {
        self.is_calm = true;
        for comet in &mut self.comets {
            comet.changes_at = Millis(0);
        }
        let end = self.now.after(LIMIT_MS + 2 * (HEALTH_TIMES.rest_ms + HEALTH_TIMES.limit_ms));
        while self.now < end {
            self.step()?;
        }
        if !self.pushes.is_empty() || self.fanout.permits_taken() > 0 {
            return Err(format!("no rest: {} places are taken", self.fanout.permits_taken()));
        }
        let is_missed = |comet: &&Comet| *self.health.health(comet.number) != Health::Serving;
        match self.comets.iter().find(is_missed) {
            Some(Comet { id, .. }) => Err(format!("{id} serves, and nobody noticed")),
            None => Ok(()),
        }
    }

    /// Removes a comet from the list and adds it again at the end.
    fn take_out_and_add(&mut self) {
        self.summary.taken_out += 1;
        let mut comet = self.comets.remove(self.rng.below(self.comets.len()));
        self.fanout.remove_comet(comet.number);
        self.health.remove_comet(comet.number);
        comet.number = self.fanout.add_comet(&comet.id);
        self.health.add_comet(self.now, comet.number);
        self.comets.push(comet);
    }

    fn ask_comets(&mut self) {
        let now = self.now;
        let is_due = |(at, ..): &mut (Option<Millis>, _, _)| at.is_some_and(|at| at <= now);
        for (_, check, health) in self.checks.extract_if(.., is_due).collect::<Vec<_>>() {
            self.health.handle_check(now, check, health);
        }
        if self.health.poll_timeout().is_some_and(|due| due <= now) {
            self.health.handle_timeout(now);
        }
        while let Some(check) = self.health.poll_check() {
            let soon = now.after(self.rng.between(0, 50));
            let late = now.after(HEALTH_TIMES.limit_ms + self.rng.between(1, 400));
            let slow = now.after(self.rng.between(0, HEALTH_TIMES.limit_ms / 2));
            let asked = self.comets.iter().find(|comet| comet.number == check.comet);
            let behaviour = asked.expect("only these are asked").behaviour;
            let (at, health) = match behaviour {
                Behaviour::Quick | Behaviour::LosesAnswers => (Some(soon), Health::Serving),
                Behaviour::Slow => (Some(slow), Health::Serving),
                Behaviour::Late => (Some(late), Health::Serving),
                Behaviour::Dead => (None, Health::Serving),
                Behaviour::Refuses => {
                    let is_gone = self.rng.percent(50);
                    let health =
                        if is_gone { Health::Gone("no".into()) } else { Health::NotServing };
                    (Some(soon), health)
                }
            };
            self.checks.push((at, check, health));
        }
        while let Some((comet, health)) = self.health.poll_change() {
            self.summary.changes += 1;
            self.fanout.set_health(comet, &health);
            if let Health::Gone(_) = health {
                for push in &mut self.pushes {
                    push.leave_out(comet, &mut self.fanout, &mut self.summary);
                }
            }
        }
    }

    /// How many of `parts` parts of a comet are not sent to it.
    fn left_out(&self, comet: CometNumber, parts: usize) -> usize {
        match self.health.health(comet) {
            Health::Gone(_) => parts,
            _ => parts.saturating_sub(CALLS_MAX - self.fanout.calls(comet)),
        }
    }

    fn push(&mut self) -> Result<(), String> {
        self.summary.pushes += 1;
        let has_room = self.pushes.len() < self.permits;
        if self.fanout.acquire_permit(CallerId::default()).is_ok() != has_room {
            return Err(format!("a place with {} under way", self.pushes.len()));
        }
        if !has_room {
            self.summary.crowded += 1;
            return Ok(());
        }
        let mut push = Push {
            fanout: self.fanout.to_room(),
            parts: BTreeMap::new(),
            expected: LedgerSum::default(),
            failed: Vec::new(),
            taken: 0,
            is_bad: false,
            over_by: self.now.after(LIMIT_MS + STEP_MS_MAX + 1),
        };
        let mut keys = BTreeMap::new();
        let mut speed = None;
        let kind = self.rng.below(3);
        let is_to_keys = kind == 1;
        match kind {
            0 => {}
            1 => {
                for key in 0..self.rng.between(0, 12) {
                    let server = match self.rng.below(self.comets.len() + 2) {
                        0 => None,
                        1 => Some("stranger".to_owned()),
                        comet => Some(self.comets[comet - 2].id.clone()),
                    };
                    keys.insert(key.to_string(), server);
                }
                let absent = self.rng.between(0, 2);
                push.fanout = self.fanout.to_sessions(keys.clone(), absent);
                let nowhere = keys.values().filter(|server| server.is_none()).count();
                push.expected.absent = absent + nowhere as u64;
                if keys.values().flatten().any(|server| server == "stranger") {
                    push.failed.push(("stranger".to_owned(), false));
                }
                keys.retain(|_, server| server.as_ref().is_some_and(|id| id != "stranger"));
            }
            _ => {
                let comets = self.comets.iter();
                let live = comets.map(|comet| (comet.id.clone(), self.rng.between(1, 100)));
                let live = live.collect();
                speed = NonZeroU32::new(self.rng.between(0, 1_000) as u32);
                push.fanout = self.fanout.to_all(speed.map(|speed| (speed, &live)));
            }
        }
        let mut left_out = Vec::new();
        for Comet { id, number, .. } in &self.comets {
            let keys = keys.values().filter(|server| server.as_ref() == Some(id)).count();
            let parts = if is_to_keys { keys.div_ceil(KEYS_MAX) } else { 1 };
            left_out.extend(vec![id.clone(); self.left_out(*number, parts)]);
        }
        self.summary.left_out += left_out.len() as u64;
        let mut speeds = 0;
        while let Some(call) = self.fanout.poll_call(&mut push.fanout, self.now) {
            let called = self.comets.iter().find(|comet| comet.number == call.comet);
            let (id, behaviour) = called.map(|comet| (comet.id.clone(), comet.behaviour)).unzip();
            match &call.target {
                Target::Keys(asked) => {
                    let is_right = |key| keys.remove(key) == Some(id.clone());
                    if asked.len() > KEYS_MAX || !asked.iter().all(is_right) {
                        return Err(format!("{call:?} is not for this comet"));
                    }
                }
                Target::Room => {}
                Target::All { speed } => speeds += speed.map_or(0, NonZeroU32::get),
            }
            let (Some(id), Some(behaviour)) = (id, behaviour) else {
                return Err(format!("{call:?} is for a comet that was taken out"));
            };
            let part = self.part(&call, id, behaviour);
            if push.parts.insert(call.part, part).is_some() {
                return Err(format!("{call:?} is made twice"));
            }
        }
        // No other comet was left out, and the keys that remain are those of comets that were left out.
        let speed = speed.filter(|_| left_out.is_empty()).map_or(0, NonZeroU32::get);
        keys.retain(|_, server| !server.as_ref().is_some_and(|id| left_out.contains(id)));
        let speeds = if left_out.is_empty() { speeds } else { 0 };
        push.failed.extend(left_out.into_iter().map(|id| (id, false)));
        // A comet gets at least one connection a second.
        if !keys.is_empty() || speeds < speed || speeds > speed + self.comets.len() as u32 {
            return Err(format!("nobody is asked for {keys:?}; speed {speed} became {speeds}"));
        }
        self.pushes.push(push);
        Ok(())
    }

    /// Decides the course of a call.
    fn part(&mut self, call: &Call, id: String, behaviour: Behaviour) -> Part {
        let rng = &mut self.rng;
        let (queued, dropped) = (rng.between(0, 9), rng.between(0, 3));
        let ledger = LedgerSum {
            matched: queued + dropped,
            queued,
            dropped: [("outbox_full".to_owned(), dropped)].into(),
            absent: rng.between(0, 2),
            scheduled: rng.between(0, 2),
            parked: 0,
        };
        let failure = |kind, message: &str| Err(CallFailure { kind, message: message.to_owned() });
        let soon = self.now.after(rng.between(0, 50));
        let slow = self.now.after(rng.between(0, LIMIT_MS - 2 * STEP_MS_MAX));
        let late = self.now.after(LIMIT_MS + rng.between(1, 500));
        let (answer_at, answer) = match behaviour {
            Behaviour::Quick => (Some(soon), Ok(ledger)),
            Behaviour::Slow => (Some(slow), Ok(ledger)),
            Behaviour::Late => (Some(late), Ok(ledger)),
            Behaviour::Dead => (None, Ok(ledger)),
            Behaviour::LosesAnswers => {
                self.summary.lost += 1;
                (Some(slow), failure(FailureKind::Unknown, "cut"))
            }
            Behaviour::Refuses => {
                let is_bad = rng.percent(20);
                let kind = if is_bad { FailureKind::BadRequest } else { FailureKind::NotTaken };
                (Some(soon), failure(kind, "no"))
            }
        };
        let waits = behaviour == Behaviour::Dead && rng.percent(50);
        Part { id, comet: call.comet, due: self.now.after(LIMIT_MS), answer_at, answer, waits }
    }

    /// Checks the outcome of a push.
    fn end(&mut self, push: Push) -> Result<(), String> {
        let Push { fanout, expected, failed, taken, is_bad, .. } = push;
        self.fanout.release_permit(CallerId::default());
        self.fanout.count_parts(self.now, &fanout);
        let sorted = |mut failed: Vec<(String, bool)>| {
            failed.sort();
            failed
        };
        let failed = sorted(failed);
        let name = |comet: &FailedComet| (comet.server.clone(), comet.is_unknown);
        let is_unknown = failed.iter().any(|(_, is_unknown)| *is_unknown);
        let outcome = fanout.finish();
        let is_right = match &outcome {
            Ok(FanoutResult { ledger, failed: named }) => {
                self.summary.partial += u64::from(!named.is_empty());
                (taken > 0 || failed.is_empty())
                    && *ledger == expected
                    && named.is_sorted_by_key(|comet| &comet.server)
                    && sorted(named.iter().map(name).collect()) == failed
            }
            Err(refused) => {
                self.summary.refused += 1;
                let is_named = |(id, may_have_taken): &(String, bool)| match refused {
                    PushError::BadRequest(_) => is_bad && !is_unknown,
                    PushError::Unavailable(sentence) => {
                        !is_bad && !is_unknown && sentence.contains(&**id)
                    }
                    PushError::Unknown { sentence, servers } => {
                        sentence.contains(&**id) && (servers.contains(id) || !may_have_taken)
                    }
                };
                taken == 0 && !failed.is_empty() && failed.iter().all(is_named)
            }
        };
        let what = || format!("{outcome:?} of a push of which {failed:?} and {expected:?} come");
        is_right.then_some(()).ok_or_else(what)
    }
}

impl Push {
    /// The caller has left.
    fn end_calls(self, hub: &mut Fanout) {
        for part in self.parts.values() {
            hub.end_call(part.comet);
        }
    }

    /// The comet is gone, so its parts are given up.
    fn leave_out(&mut self, comet: CometNumber, hub: &mut Fanout, summary: &mut FanoutSummary) {
        hub.leave_out_gone(&mut self.fanout, |part| self.parts[&part].waits);
        for (id, part) in self.parts.extract_if(.., |_, part| part.comet == comet) {
            summary.left_out += 1;
            hub.end_call(comet);
            self.failed.push((part.id, !part.waits));
            // A later answer has no effect.
            self.fanout.handle_answer(id, part.answer);
        }
    }

    /// Passes on the answers that have come, then gives up the late parts.
    fn answer(&mut self, now: Millis, hub: &mut Fanout, summary: &mut FanoutSummary) {
        let has_come = |_: &PartId, part: &mut Part| {
            part.answer_at.is_some_and(|at| at <= now && at <= part.due)
        };
        for (id, part) in self.parts.extract_if(.., has_come) {
            hub.end_call(part.comet);
            match &part.answer {
                Ok(ledger) => {
                    self.taken += 1;
                    self.expected += ledger.clone();
                }
                Err(failure) => {
                    self.is_bad |= failure.kind == FailureKind::BadRequest;
                    self.failed.push((part.id, failure.kind == FailureKind::Unknown));
                }
            }
            self.fanout.handle_answer(id, part.answer);
        }
        if self.fanout.poll_timeout().is_some_and(|due| due <= now) {
            self.fanout.handle_timeout(now, |part| self.parts[&part].waits);
        }
        for (id, part) in self.parts.extract_if(.., |_, part| part.due <= now) {
            summary.late += 1;
            hub.end_call(part.comet);
            self.failed.push((part.id, !part.waits));
            // A later answer has no effect.
            self.fanout.handle_answer(id, part.answer);
        }
    }
}
