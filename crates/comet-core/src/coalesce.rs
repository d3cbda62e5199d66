//! Rules for pushes that wait for others, so that a client gets several in one send.

/// A rule about pushes to a room or to all connections. The first rule that covers a push applies. A push that no rule
/// covers does not wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoalesceRule {
    /// Covers pushes to rooms whose id begins with this. `None`: to any room, and broadcasts that are not paced.
    pub rooms: Option<Box<str>>,
    /// Covers pushes of these operations. Empty: of any operation.
    pub operations: Box<[i32]>,
    /// The longest time that a push waits for others, milliseconds.
    pub window_ms: u32,
    /// Whether a push replaces an older waiting one with the same [`Push::collapse_id`](crate::Push::collapse_id), in
    /// the window or in a full outbox.
    pub keep_latest: bool,
}

impl CoalesceRule {
    /// Whether the rule covers pushes of `operation` to `room`; `None` means a broadcast.
    #[must_use]
    pub fn covers(&self, room: Option<&str>, operation: i32) -> bool {
        let is_place = match (&self.rooms, room) {
            (None, _) => true,
            (Some(prefix), Some(room)) => room.starts_with(&**prefix),
            (Some(_), None) => false,
        };
        is_place && (self.operations.is_empty() || self.operations.contains(&operation))
    }
}
