//! Which rooms keep a history.

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
