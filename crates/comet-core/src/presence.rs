//! Which rooms tell their members who enters and leaves.

/// A rule about rooms whose members are told. The first rule that covers a room holds; in a room that none covers nobody is
/// told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresenceRule {
    /// It covers rooms whose id begins with this.
    pub prefix: Box<str>,
    /// Operation of the pushes.
    pub operation: i32,
    /// How long changes are gathered, from the first of them on, milliseconds.
    pub window_ms: u32,
    /// Connections that a push names at most, of those that entered and of those that left; the others are counted.
    pub names: u32,
}

impl PresenceRule {
    /// Whether it is about `room`.
    #[must_use]
    pub fn covers(&self, room: &str) -> bool {
        room.starts_with(&*self.prefix)
    }
}
