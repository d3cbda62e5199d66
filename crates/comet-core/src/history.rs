//! Which rooms keep a history, and pages of it for callers.

use std::sync::Arc;

use comet_proto::{Encoded, Position, decode};

/// A rule about rooms that keep their last pushes. The first rule that covers a room holds; a room that none covers
/// keeps nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryRule {
    /// It covers rooms whose id begins with this.
    pub prefix: Box<str>,
    /// Pushes that a room keeps; each frame of a batch is one.
    pub pushes: u32,
    /// Bytes of frames that a room keeps.
    pub bytes: u32,
    /// How long a push is kept, milliseconds.
    pub age_ms: u32,
}

impl HistoryRule {
    /// Whether it is about `room`.
    #[must_use]
    pub fn covers(&self, room: &str) -> bool {
        room.starts_with(&*self.prefix)
    }
}

/// How far the stream is that hosts share, as one of them has read it. What came before `floor` may be lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StreamState {
    /// Tells the stream from others, and from one that had its name before. 0: it is not known.
    pub epoch: u64,
    /// Pushes up to this offset may be lost.
    pub floor: u64,
    /// All pushes up to this offset have been sent to their homes.
    pub seen: u64,
    /// The host has read what was in the stream when it began.
    pub is_read: bool,
}

/// Which page of what a room keeps a caller asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryQuery {
    /// The room.
    pub room: Arc<str>,
    /// The pushes before this offset. `None`: the latest.
    pub before: Option<u64>,
    /// Pushes at most.
    pub limit: u32,
}

/// What a room keeps, as far as a page goes. The frames are those of the room, so a home copies nothing.
#[derive(Clone, Debug, Default)]
pub struct HistoryPage {
    /// Of the latest push. `None`: the room had none, or is forgotten.
    pub position: Option<Position>,
    /// Offset of the oldest push that the room keeps.
    pub oldest: Option<u64>,
    /// The latest comes first. The first and the last one may have more than was asked for.
    pub(crate) runs: Vec<HistoryRun>,
}

/// Pushes behind each other that came as one.
#[derive(Clone, Debug)]
pub(crate) struct HistoryRun {
    pub(crate) frame: Encoded,
    /// Offset of its first push.
    pub(crate) first: u64,
    pub(crate) age_ms: u64,
}

/// A push that a room keeps.
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
    /// The pushes that were asked for, the latest first.
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
