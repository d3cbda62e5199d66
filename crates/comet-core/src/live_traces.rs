//! Whose events operators watch as they happen.

use crate::network::Network;

/// Live traces that may be under way at once.
pub const LIVE_TRACES_MAX: usize = 16;

/// Number of a live trace. None is given twice in the life of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TraceId(pub u64);

/// The connections that a live trace is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// Those registered under this key, from their registration on.
    Key(Box<str>),
    /// Those of this user, from their registration on; 0: of anonymous clients.
    User(i64),
    /// Those in this room, as long as they are in it.
    Room(Box<str>),
    /// Those of clients in this network, from their accept on.
    Network(Network),
}

/// A live trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveTrace {
    /// Its number.
    pub id: TraceId,
    /// What it is about.
    pub subject: Subject,
}

/// The live traces under way, at most [`LIVE_TRACES_MAX`], the oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LiveTraces(Box<[LiveTrace]>);

/// As many live traces are under way as there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyTraces;

impl LiveTraces {
    /// Whether none is under way.
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

    /// These without the one numbered `id`.
    #[must_use]
    pub fn without(&self, id: TraceId) -> Self {
        Self(self.0.iter().filter(|trace| trace.id != id).cloned().collect())
    }

    /// Whether one is about a network, so that addresses have to be looked at.
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
