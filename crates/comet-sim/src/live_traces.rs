//! Live traces that begin and end: their subjects, and whether they get the right events.

use std::collections::BTreeMap;

use comet_core::{LiveConn, LiveTrace, LiveTraces, Subject, TraceEvent, TraceId, TraceKind};

use crate::plan::{KEYS, ROOMS, USERS};
use crate::rng::Rng;
use crate::source::{address, blocked};

/// The live traces of a run.
#[derive(Default)]
pub(crate) struct LiveTracing {
    /// All traces, including those that have ended.
    all: BTreeMap<TraceId, Subject>,
    /// The number of events that they got.
    pub(crate) told: u64,
}

impl LiveTracing {
    /// Adds a trace to `traces`, or removes one.
    pub(crate) fn change(&mut self, rng: &mut Rng, traces: &LiveTraces) -> LiveTraces {
        let ids: Vec<_> = traces.iter().map(|trace| trace.id).collect();
        if !ids.is_empty() && rng.percent(45) {
            return traces.without(rng.pick(&ids));
        }
        let id = TraceId(self.all.len() as u64 + 1);
        let subject = match rng.below(4) {
            0 => Subject::Key(rng.pick(&KEYS).into()),
            1 => Subject::User(rng.below(USERS as usize) as i64),
            2 => Subject::Room(rng.pick(&ROOMS).into()),
            _ => Subject::Network(blocked()),
        };
        match traces.with(LiveTrace { id, subject: subject.clone() }) {
            Ok(traces) => {
                self.all.insert(id, subject);
                traces
            }
            Err(_) => traces.without(rng.pick(&ids)),
        }
    }

    /// Checks that an event goes only to traces that it concerns.
    pub(crate) fn check(&mut self, event: &TraceEvent) -> Result<(), String> {
        let TraceEvent { user, key, what, traces, .. } = event;
        if matches!(what, TraceKind::Missed { .. }) {
            return Ok(());
        }
        self.told += traces.len() as u64;
        // Only some events of a connection include its address, and none its rooms.
        let concerns = |id: &TraceId| match (self.all.get(id), what) {
            (Some(Subject::Key(traced)), _) => key == traced || key.is_empty(),
            (Some(Subject::User(traced)), _) => user == traced,
            (Some(Subject::Network(network)), TraceKind::Accepted { address }) => {
                network.contains(*address)
            }
            (Some(Subject::Room(_) | Subject::Network(_)), _) => true,
            (None, _) => false,
        };
        let is_right = traces.iter().all(concerns) && (event.is_logged || !traces.is_empty());
        is_right.then_some(()).ok_or_else(|| format!("told to the wrong traces: {event:?}"))
    }
}

/// At rest: the `traces` whose subject includes the connection of `peer`.
pub(crate) fn about(traces: &LiveTraces, live: &LiveConn<'_>, peer: usize) -> Vec<TraceId> {
    let concerns = |trace: &&LiveTrace| match &trace.subject {
        Subject::Key(key) => **key == *live.key,
        Subject::User(user) => *user == live.user,
        Subject::Room(room) => live.room == Some(room) || live.further_rooms.contains(&&**room),
        Subject::Network(network) => network.contains(address(peer)),
    };
    traces.iter().filter(concerns).map(|trace| trace.id).collect()
}
