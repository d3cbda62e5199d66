//! The fake logic service, asked by way of control: it takes its time, refuses, fails, and keeps what it
//! believes to be here.

use std::collections::{BTreeMap, BTreeSet};

use comet_core::{
    AuthRequest, CloseReason, ConnId, Denied, Identity, Message, Millis, Report, ShardId,
};

use crate::plan::Plan;
use crate::profile;
use crate::rng::Rng;

/// What it says of a message that it does not take.
pub(crate) const FAILURE: &str = "logic has failed";

/// It takes no message of an odd length.
pub(crate) fn fails(body: &[u8]) -> bool {
    body.len() % 2 == 1
}

enum Step {
    /// To look at a token; what it decides is so from then on.
    Decide(AuthRequest),
    /// To answer.
    Answer(ShardId, Message),
}

#[derive(Default)]
pub(crate) struct Logic {
    /// Keys it believes to be here.
    pub(crate) present: BTreeSet<Box<str>>,
    /// What it does next, and when.
    steps: Vec<(Millis, Step)>,
    /// Whose message it looks at.
    receiving: BTreeSet<ConnId>,
    /// Sessions it has numbered, by user.
    sessions: BTreeMap<i64, u32>,
    pub(crate) renewals: u64,
    pub(crate) departures: u64,
    pub(crate) failures: u64,
}

impl Logic {
    pub(crate) fn hear(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        now: Millis,
        report: Report,
    ) -> Result<(), String> {
        if !plan.is_remote() {
            return Err(format!("logic is embedded, and there comes {report:?}"));
        }
        let due = now.after(rng.between(0, plan.auth_ms_max));
        match report {
            Report::Identify(request) => self.steps.push((due, Step::Decide(request))),
            Report::Receive { conn, body, .. } => {
                if !self.receiving.insert(conn) {
                    return Err(format!("{conn:?} has two messages under way"));
                }
                let outcome = if fails(&body) { Err(FAILURE.into()) } else { Ok(()) };
                self.failures += u64::from(outcome.is_err());
                let receipt = Message::Receipt { conn, outcome };
                self.steps.push((due, Step::Answer(conn.shard, receipt)));
            }
            Report::Heartbeat { key, .. } => {
                self.renewals += 1;
                self.present.insert(key);
            }
            Report::Disconnected { key, .. } => {
                self.departures += 1;
                self.present.remove(&key);
            }
            other => return Err(format!("not for logic: {other:?}")),
        }
        Ok(())
    }

    /// Does what is due; its answers are the messages.
    pub(crate) fn turn(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        now: Millis,
    ) -> Vec<(ShardId, Message)> {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.steps).into_iter().partition(|(due, _)| *due <= now);
        self.steps = later;
        let mut answers = Vec::new();
        for (_, step) in due {
            match step {
                Step::Decide(request) => {
                    let conn = request.conn;
                    let answer = self.decide(rng, plan, &request);
                    let due = now.after(rng.between(0, plan.auth_ms_max));
                    let message = Message::Identified { conn, answer };
                    self.steps.push((due, Step::Answer(conn.shard, message)));
                }
                Step::Answer(shard, message) => {
                    if let Message::Receipt { conn, .. } = &message {
                        self.receiving.remove(conn);
                    }
                    answers.push((shard, message));
                }
            }
        }
        answers
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.steps.is_empty()
    }

    fn decide(
        &mut self,
        rng: &mut Rng,
        plan: &Plan,
        request: &AuthRequest,
    ) -> Result<Identity, Denied> {
        if rng.percent(5) {
            return Err(Denied {
                reason: CloseReason::LogicUnavailable,
                sentence: rng.pick(&["", "no logic service answers"]).into(),
                retry_after_ms: rng.pick(&[None, Some(700)]),
            });
        }
        let mut identity =
            profile::auth(&request.token, &request.cookie, plan).map_err(Denied::refused)?;
        let user = identity.user;
        let key = identity.key.take().unwrap_or_else(|| {
            let session = self.sessions.entry(user).or_default();
            *session += 1;
            format!("{user}_{session}").into()
        });
        self.present.insert(key.clone());
        identity.key = Some(key);
        Ok(identity)
    }
}
