//! Rules about rooms that tell their members who enters and leaves.

/// A rule about rooms whose members are told. The first rule that covers a room applies. Without a rule nobody is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresenceRule {
    /// It covers rooms whose id begins with this.
    pub prefix: Box<str>,
    /// The operation of the pushes.
    pub operation: i32,
    /// How long changes are gathered, from the first of them on, milliseconds.
    pub window_ms: u32,
    /// The most connections that a push names among those that entered, and among those that left. Others are only
    /// counted.
    pub names: u32,
}

impl PresenceRule {
    /// Whether the rule covers `room`.
    #[must_use]
    pub fn covers(&self, room: &str) -> bool {
        room.starts_with(&*self.prefix)
    }
}
