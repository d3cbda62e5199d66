//! Live traces: events that operators watch as they happen.

use crate::network::Network;

/// The limit of live traces under way.
pub const LIVE_TRACES_MAX: usize = 16;

/// The number of a live trace. A process gives no number twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TraceId(pub u64);

/// The connections that a live trace watches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// The connections registered under this key, from their registration on.
    Key(Box<str>),
    /// The connections of this user, from their registration on; 0: of anonymous clients.
    User(i64),
    /// The connections in this room, while they are in it.
    Room(Box<str>),
    /// The connections of clients in this network, from their accept on.
    Network(Network),
}

/// A live trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveTrace {
    /// Its number.
    pub id: TraceId,
    /// The connections that it watches.
    pub subject: Subject,
}

/// The live traces under way, at most [`LIVE_TRACES_MAX`], oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LiveTraces(Box<[LiveTrace]>);

/// The number of live traces is at its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyTraces;

impl LiveTraces {
    /// Whether no live trace is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &LiveTrace> {
        self.0.iter()
    }

    /// These and `trace`.
    ///
    /// # Errors
    /// [`TooManyTraces`].
    pub fn with(&self, trace: LiveTrace) -> Result<Self, TooManyTraces> {
        if self.0.len() == LIVE_TRACES_MAX {
            return Err(TooManyTraces);
        }
        Ok(Self(self.0.iter().cloned().chain([trace]).collect()))
    }

    /// These without the one with the number `id`.
    #[must_use]
    pub fn without(&self, id: TraceId) -> Self {
        Self(self.0.iter().filter(|trace| trace.id != id).cloned().collect())
    }

    /// Whether one is about a network, so that addresses have to be examined.
    pub(crate) fn has_networks(&self) -> bool {
        self.0.iter().any(|trace| matches!(trace.subject, Subject::Network(_)))
    }

    pub(crate) fn contains(&self, id: TraceId) -> bool {
        self.0.iter().any(|trace| trace.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_a_few_at_once() {
        let trace = |id| LiveTrace { id: TraceId(id), subject: Subject::User(7) };
        let mut traces = LiveTraces::default();
        for id in 0..LIVE_TRACES_MAX as u64 {
            traces = traces.with(trace(id)).unwrap();
        }
        assert_eq!(traces.with(trace(99)), Err(TooManyTraces));
        let traces = traces.without(TraceId(3));
        assert!(!traces.contains(TraceId(3)) && traces.contains(TraceId(4)));
        assert!(traces.with(trace(99)).unwrap().contains(TraceId(99)));
    }
}
