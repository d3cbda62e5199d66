//! What keeps a shard from being handed over, and what stays behind.

use std::fmt;

/// What a shard has under way. It can be handed over once nothing is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Obstacles {
    /// Pushes that are not offered to all, those that wait in windows among them.
    pub pushes: usize,
    /// Orders to move clients off.
    pub orders: usize,
    /// Transmits that the driver has not answered.
    pub transmits: usize,
    /// Messages to other shards, and reports to control.
    pub messages: usize,
    /// Connections that wait for logic or a home. They go on once answered; those that are not when the shard is handed over
    /// stay behind.
    pub answers: usize,
    /// Connections that wait to be in a room, and go on meanwhile; and rooms that some wait for.
    pub joins: usize,
    /// Requests of push callers that are not answered.
    pub calls: usize,
    /// Lists for operators that are being made.
    pub lists: usize,
    /// Sockets to shut, and closed connections to log.
    pub closes: usize,
    /// Sessions that are between two connections.
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

    /// Whether nothing is under way that would be lost. Connections that wait for logic may be left behind, callers learn from
    /// the end of their connection that nobody answers, and sockets to shut are those of connections that are closed already.
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
    /// It waits for the answer of logic or a home.
    AwaitsAnswer,
    /// It is closing already.
    Closing,
}

impl LeftBehind {
    /// The word for it in logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::AwaitsAnswer => "awaits_answer",
            Self::Closing => "closing",
        }
    }
}
