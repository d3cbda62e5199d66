//! Requests to logic and its replies: the calls of `goim.logic.Logic`, independent of their encoding.

use std::sync::Arc;

use comet_core::Identity;

use super::room_counts::{RoomPieces, RoomsByHome};

/// A request to logic. The driver adds the id of this server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Asks for the identity behind a token. Answered with [`Reply::Connected`].
    Connect {
        /// Body of the client's op 7.
        token: Box<[u8]>,
        /// Cookie header of the upgrade; empty if there was none.
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
    /// The session continues. Answered with [`Reply::Done`].
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
    /// The number of members online here in each room of a piece. Answered with [`Reply::Elsewhere`].
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

    /// Whether a request may be repeated. Logic forwards clients' messages, so it must not get one twice. All other
    /// requests may be repeated.
    pub(super) fn retry(&self) -> Retry {
        match self {
            Self::Receive { .. } => Retry::IfNotSent,
            _ => Retry::Always,
        }
    }
}

/// A reply of logic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// To [`Request::Connect`].
    Connected(Identity),
    /// To requests that need no answer.
    Done,
    /// To [`Request::RenewOnline`]: the result of [`RoomPieces::elsewhere`] for the answer. It may be empty for pieces
    /// before the last one.
    Elsewhere(RoomsByHome),
}

/// Whether a call that failed on its way is repeated at another address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Retry {
    Always,
    /// Only if logic cannot have received it.
    IfNotSent,
}
