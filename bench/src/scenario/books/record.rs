//! The records that callers and clients make of a run, from which the books are settled.

use std::collections::BTreeMap;

use crate::clock::SECOND_NS;

/// The host that is killed. No caller uses it.
pub(super) const VICTIM: usize = 2;

/// The kinds of pushes; each has its own rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Plain,
    History,
    Keys,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Plain, Self::History, Self::Keys];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain room",
            Self::History => "history room",
            Self::Keys => "keys",
        }
    }
}

/// A push call. Its number is its index in the list of all calls.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The caller. It makes one call after the other, so its calls have an order.
    pub publisher: usize,
    /// The host that it called.
    pub host: usize,
    pub kind: Kind,
    /// The clients that the push is for.
    pub clients: Vec<usize>,
    pub begin_ns: u64,
    pub end_ns: u64,
    pub outcome: Outcome,
}

/// The result of a call for its caller.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Answered(Answer),
    /// No client gets the push.
    Refused(String),
    /// Some clients may get the push.
    Failed(String),
    /// There was no answer at all.
    Silent,
}

/// The ledger of a reply.
#[derive(Clone, Default, Debug)]
pub(super) struct Answer {
    pub queued: u64,
    pub dropped: BTreeMap<String, u64>,
    pub unanswered: Vec<String>,
}

impl Answer {
    /// Whether the part of `host` is missing, or may be, by `names`. `caller` is the host that was called. A `*` stands
    /// for hosts that it does not know.
    pub(super) fn names(&self, host: usize, caller: usize, names: &[&str]) -> bool {
        let is_named = |name: &String| name == names[host] || name == "*" && host != caller;
        self.unanswered.iter().any(is_named)
    }
}

/// A connection of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub host: usize,
    /// When the client began to connect, and when pushes to its rooms and its key were certain to reach it.
    pub begin_ns: u64,
    pub ready_ns: u64,
    /// When the client noticed its end, or ended it.
    pub end_ns: Option<u64>,
}

/// What a client received, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    Push {
        number: usize,
        /// The kind of the room or key through which it arrived.
        kind: Kind,
        session: usize,
        /// Whether it came from the history, after a return or a gap.
        is_recovered: bool,
    },
    /// The server reported that pushes of the history room are missing here and that it does not have them.
    Told,
}

/// Everything that a client recorded.
#[derive(Clone, Default, Debug)]
pub(super) struct Diary {
    pub sessions: Vec<Session>,
    pub entries: Vec<Entry>,
}

/// A part of the run, beginning at this time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub name: &'static str,
    pub begin_ns: u64,
}

/// The death of a host: from when to when no process had its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    pub host: usize,
    pub from_ns: u64,
    pub to_ns: u64,
}

/// All records that the books are settled from.
pub(super) struct Records<'a> {
    pub calls: &'a [Call],
    pub diaries: &'a [Diary],
    /// The names of the hosts.
    pub names: &'a [&'a str],
    /// In order; the first begins before all calls.
    pub phases: &'a [Phase],
    pub death: Option<Death>,
}

impl Records<'_> {
    /// A push at a client, as text.
    pub(super) fn describe(&self, number: usize, client: usize) -> String {
        let call = &self.calls[number];
        let sessions = &self.diaries[client].sessions;
        let near: Vec<_> = sessions
            .iter()
            .filter(|it| it.end_ns.is_none_or(|end| end + 10 * SECOND_NS > call.begin_ns))
            .collect();
        format!("push {number} at client {client}: {call:?}; connections {near:?}")
    }
}

impl Call {
    pub(super) fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            _ => None,
        }
    }
}
