//! Which rooms keep a history, and pages of it for callers.

use std::sync::Arc;

use comet_proto::{Encoded, Position, decode};

/// A rule about rooms that keep their last pushes. The first rule that covers a room applies. A room that no rule
/// covers keeps nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryRule {
    /// It covers rooms whose id begins with this.
    pub prefix: Box<str>,
    /// The number of pushes that a room keeps; each frame of a batch counts.
    pub pushes: u32,
    /// The bytes of frames that a room keeps.
    pub bytes: u32,
    /// How long a push is kept, milliseconds.
    pub age_ms: u32,
}

impl HistoryRule {
    /// Whether the rule covers `room`.
    #[must_use]
    pub fn covers(&self, room: &str) -> bool {
        room.starts_with(&*self.prefix)
    }
}

/// How far a host has read the stream that hosts share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamState {
    /// Distinguishes the stream from others, also from an earlier one of the same name. 0: not known.
    pub epoch: u64,
    /// Pushes up to this offset may be lost.
    pub floor: u64,
    /// All pushes up to this offset have been sent to their homes.
    pub seen: u64,
    /// The host has read the part of the stream that existed when the host began.
    pub is_read: bool,
}

/// A caller's request for a page of a room's history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryQuery {
    /// The room.
    pub room: Arc<str>,
    /// The pushes before this offset. `None`: the latest.
    pub before: Option<u64>,
    /// The most pushes on the page.
    pub limit: u32,
}

/// A page of a room's history. It shares the frames of the room, so a home copies nothing.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// The position of the latest push. `None`: the room had no push, or was forgotten.
    pub position: Option<Position>,
    /// The offset of the oldest push in the history.
    pub oldest: Option<u64>,
    /// The latest run comes first. The first and the last run may have more pushes than requested.
    pub(crate) runs: Vec<HistoryRun>,
}

/// Successive pushes that arrived together.
#[derive(Clone, Debug)]
pub(crate) struct HistoryRun {
    pub(crate) frame: Encoded,
    /// The offset of its first push.
    pub(crate) first: u64,
    pub(crate) age_ms: u64,
}

/// A push in a room's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryEntry<'a> {
    /// Its offset.
    pub offset: u64,
    /// Its operation.
    pub operation: i32,
    /// Its body.
    pub body: &'a [u8],
    /// How long ago the home took it, milliseconds.
    pub age_ms: u64,
}

impl HistoryPage {
    /// The requested pushes, the latest first.
    #[must_use]
    pub fn entries(&self, query: &HistoryQuery) -> Vec<HistoryEntry<'_>> {
        let before = query.before.unwrap_or(u64::MAX);
        let mut entries = Vec::new();
        for HistoryRun { frame, first, age_ms } in &self.runs {
            let (mut run, mut offset, from) = (frame.for_tcp(), *first, entries.len());
            while offset < before
                && let Ok(Some((frame, consumed))) = decode(run, usize::MAX)
            {
                let (operation, body) = (frame.operation, frame.body);
                entries.push(HistoryEntry { offset, operation, body, age_ms: *age_ms });
                (run, offset) = (&run[consumed..], offset + 1);
            }
            entries[from..].reverse();
        }
        entries.truncate(query.limit as usize);
        entries
    }
}
