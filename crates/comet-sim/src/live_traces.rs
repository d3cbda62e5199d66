//! Live traces that come and go: what they are about, and whether they are told what they should.

use std::collections::BTreeMap;

use comet_core::{LiveConn, LiveTrace, LiveTraces, Subject, TraceEvent, TraceId, TraceKind};

use crate::plan::{KEYS, ROOMS, USERS};
use crate::rng::Rng;
use crate::source::{address, blocked};

/// The live traces of a run.
#[derive(Default)]
pub(crate) struct LiveTracing {
    /// Those that are over, too.
    all: BTreeMap<TraceId, Subject>,
    /// Events that they were told of.
    pub(crate) told: u64,
}

impl LiveTracing {
    /// One trace more than `traces`, or one less.
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

    /// An event goes to nobody whom it does not concern.
    pub(crate) fn check(&mut self, event: &TraceEvent) -> Result<(), String> {
        let TraceEvent { user, key, what, traces, .. } = event;
        if matches!(what, TraceKind::Missed { .. }) {
            return Ok(());
        }
        self.told += traces.len() as u64;
        // Its address is not in every event of a connection, and its rooms are in none.
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

/// At rest: which of `traces` are about the connection of `peer`.
pub(crate) fn about(traces: &LiveTraces, live: &LiveConn<'_>, peer: usize) -> Vec<TraceId> {
    let concerns = |trace: &&LiveTrace| match &trace.subject {
        Subject::Key(key) => **key == *live.key,
        Subject::User(user) => *user == live.user,
        Subject::Room(room) => live.room == Some(room) || live.further_rooms.contains(&&**room),
        Subject::Network(network) => network.contains(address(peer)),
    };
    traces.iter().filter(concerns).map(|trace| trace.id).collect()
}
