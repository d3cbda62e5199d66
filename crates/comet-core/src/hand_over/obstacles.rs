//! The work that keeps a shard from being handed over, and the connections that stay behind.

use std::fmt;

/// The work that a shard has under way. It can be handed over when there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Obstacles {
    /// Pushes that were not offered to all their connections, including those that wait in windows.
    pub pushes: usize,
    /// Orders to move clients off.
    pub orders: usize,
    /// Transmits whose result the driver has not reported.
    pub transmits: usize,
    /// Messages to other shards, and reports to control.
    pub messages: usize,
    /// Connections that wait for logic or a home. They continue after the answer. Those that still wait when the shard
    /// is handed over stay behind.
    pub answers: usize,
    /// Connections that wait to enter a room while their input is read, and rooms that connections wait for.
    pub joins: usize,
    /// Requests of push callers that are not answered.
    pub calls: usize,
    /// Lists for operators under way.
    pub lists: usize,
    /// Sockets to shut, and closed connections to log.
    pub closes: usize,
    /// Sessions on the way from a former or to a next connection.
    pub sessions: usize,
    /// The shard drains.
    pub is_draining: bool,
}

impl Obstacles {
    /// Whether nothing is under way.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether nothing is under way that would be lost. Connections that wait for logic may be left behind. Push
    /// callers learn from the end of their connection that no reply will come. Sockets to shut belong to connections
    /// that are closed already.
    #[must_use]
    pub fn may_hand_over(&self) -> bool {
        Self { answers: 0, calls: 0, closes: 0, ..*self }.is_none()
    }
}

impl fmt::Display for Obstacles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pushes, orders, transmits, messages, answers, calls, .. } = *self;
        let Self { joins, lists, closes, sessions, is_draining, .. } = *self;
        let counts = [
            (pushes, "pushes"),
            (orders, "orders to move clients off"),
            (transmits, "sends"),
            (messages, "messages"),
            (answers, "connections that wait for an answer"),
            (joins, "joins of rooms"),
            (calls, "calls"),
            (lists, "lists"),
            (closes, "sockets to shut"),
            (sessions, "sessions between two connections"),
            (usize::from(is_draining), "drain"),
        ];
        let mut separator = "";
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {what}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

/// Why a connection is not handed over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LeftBehind {
    /// It has not sent its token.
    Handshake,
    /// It waits for the answer of logic or a home; or its client has left, and what it sent waits to be read.
    AwaitsAnswer,
    /// It is closing already.
    Closing,
}

impl LeftBehind {
    /// Its name in logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::AwaitsAnswer => "awaits_answer",
            Self::Closing => "closing",
        }
    }
}
