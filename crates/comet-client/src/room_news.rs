//! What a server says of rooms that keep a history.

use comet_proto::Position;

/// What the server says of a room that the connection has entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Joined {
    /// The latest push to the room, if it keeps a history.
    pub position: Option<Position>,
    /// How many pushes came after the position that was asked for, all of which follow as messages. `None`: no position
    /// was asked for, or the server does not have all of them any more, and none follows.
    pub recovered: Option<u32>,
}

/// Pushes to a room that keeps a history, which the server has dropped for this connection. The connection asks for them by
/// itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The room.
    pub room: Box<str>,
    /// Offset of the first push that is missing.
    pub first: u64,
    /// Offset of the last one. Some between may not be missing.
    pub last: u64,
    /// What becomes of them.
    pub state: GapState,
}

/// What becomes of pushes that are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapState {
    /// Newer pushes about the same states have taken the place of all of them, so nothing is asked for.
    Outdated,
    /// The server is asked for them. [`GapState::Repaired`] or [`GapState::Lost`] follows, and no message of the room before that. Neither
    /// comes if the connection ends first, or if the server takes it out of the room.
    Asked,
    /// All that came after the latest message of the room follows, in order and none twice.
    Repaired {
        /// How many messages that are.
        missed: u32,
    },
    /// The server does not have them any more. What is known of the room has to be loaded anew.
    Lost,
}
