//! What logic is asked and replies: the calls of `goim.logic.Logic`, without its wire.

use std::sync::Arc;

use comet_core::Identity;

use super::renewal::{RoomPieces, RoomsByHome};

/// What logic is asked. The driver adds the id of this server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Who is this? Answered with [`Reply::Connected`].
    Connect {
        /// Body of the client's op 7.
        token: Box<[u8]>,
        /// Cookie header of the upgrade; empty where there was none.
        cookie: Box<str>,
    },
    /// A client's message. Answered with [`Reply::Done`].
    Receive {
        /// Who sent it.
        user: i64,
        /// The frame's operation.
        operation: i32,
        /// The frame's sequence.
        sequence: i32,
        /// The frame's body.
        body: Box<[u8]>,
    },
    /// The session goes on. Answered with [`Reply::Done`].
    Heartbeat {
        /// Whose session it is.
        user: i64,
        /// The session's key.
        key: Box<str>,
    },
    /// The session ended. Answered with [`Reply::Done`].
    Disconnect {
        /// Whose session it was.
        user: i64,
        /// The session's key.
        key: Box<str>,
    },
    /// How many are online here in each room of a piece. Answered with [`Reply::Elsewhere`].
    RenewOnline {
        /// All rooms.
        pieces: Arc<RoomPieces>,
        /// Number of the piece.
        piece: usize,
    },
}

impl Request {
    /// Name of the remote procedure.
    #[must_use]
    pub fn rpc(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "Connect",
            Self::Receive { .. } => "Receive",
            Self::Heartbeat { .. } => "Heartbeat",
            Self::Disconnect { .. } => "Disconnect",
            Self::RenewOnline { .. } => "RenewOnline",
        }
    }

    /// Logic hands on what clients say: it must not get that twice. Everything else it may do twice.
    pub(super) fn retry(&self) -> Retry {
        match self {
            Self::Receive { .. } => Retry::IfNotSent,
            _ => Retry::Always,
        }
    }
}

/// What logic replies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// To [`Request::Connect`].
    Connected(Identity),
    /// To the requests without an answer of their own.
    Done,
    /// To [`Request::RenewOnline`]: what [`RoomPieces::elsewhere`] makes of the answer. It may be empty for
    /// pieces before the last one.
    Elsewhere(RoomsByHome),
}

/// Is a call that failed on its way made again at another address?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Retry {
    Always,
    /// Only if logic cannot have seen it.
    IfNotSent,
}
