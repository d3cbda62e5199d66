//! News of the server about rooms that keep a history.

use comet_proto::Position;

/// The server's answer about a room that the connection has entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Joined {
    /// The latest push to the room, if it keeps a history.
    pub position: Option<Position>,
    /// The number of pushes after the requested position, all of which follow as messages. `None`: no position was
    /// requested, or the server no longer has all of them, and none follows.
    pub recovered: Option<u32>,
}

/// Pushes to a room that keeps a history, which the server has dropped for this connection. The connection requests
/// them by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The room.
    pub room: Box<str>,
    /// Offset of the first missing push.
    pub first: u64,
    /// Offset of the last missing push. Some between may not be missing.
    pub last: u64,
    /// The state of the gap.
    pub state: GapState,
}

/// The state of missing pushes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapState {
    /// Newer pushes about the same states have replaced all of them, so none is requested.
    Outdated,
    /// The server was asked for them. [`GapState::Repaired`] or [`GapState::Lost`] follows, and no message of the room
    /// comes before that. Neither comes if the connection ends first, or if the server removes it from the room.
    Asked,
    /// All pushes after the latest message of the room follow, in order and none twice.
    Repaired {
        /// The number of these messages.
        missed: u32,
    },
    /// The server no longer has them. The program has to load the state of the room.
    Lost,
}
