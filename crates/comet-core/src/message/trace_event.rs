//! Events of connections that are traced.

use std::net::IpAddr;
use std::sync::Arc;

use crate::ids::ConnId;
use crate::ledger::{CloseReason, DropReason};
use crate::live_traces::TraceId;
use crate::time::Millis;

/// Something that happened to a connection of a user on [`Limits::trace_users`](crate::Limits::trace_users), or to the
/// subject of a live trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceEvent {
    /// The connection.
    pub conn: ConnId,
    /// Its user.
    pub user: i64,
    /// Its key; empty in events after its close.
    pub key: Box<str>,
    /// What happened.
    pub what: TraceKind,
    /// When.
    pub at: Millis,
    /// The trace log has a line for it.
    pub is_logged: bool,
    /// The live traces that it is for. Some of them may have ended.
    pub traces: Box<[TraceId]>,
}

/// What happened to a traced connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TraceKind {
    /// It was accepted, and a live trace is about its client's address.
    Accepted {
        /// Where its client connects from.
        address: IpAddr,
    },
    /// It is authenticated and registered.
    Authenticated {
        /// The room it starts in.
        room: Option<Box<str>>,
    },
    /// A frame was read.
    Read {
        /// The frame's operation.
        operation: i32,
        /// The frame's sequence.
        sequence: i32,
        /// Length of the whole frame.
        bytes: u32,
    },
    /// The kernel took the last byte of a frame; of a batch, each frame in it.
    Wrote {
        /// The frame's operation.
        operation: i32,
        /// The frame's sequence.
        sequence: i32,
        /// Length of the whole frame.
        bytes: u32,
    },
    /// It entered a room.
    Joined {
        /// The room.
        room: Arc<str>,
    },
    /// It left a room, and is not closed.
    Left {
        /// The room.
        room: Arc<str>,
    },
    /// Its outbox took a push.
    Queued {
        /// The push's operation.
        operation: i32,
        /// Length of the frame, or of all frames of a batch.
        bytes: u32,
        /// Older pushes that the outbox dropped for this one.
        superseded: u32,
    },
    /// It did not get a push.
    Dropped {
        /// The push's operation.
        operation: i32,
        /// The reason.
        reason: DropReason,
    },
    /// The connection got a close reason. Frames written after that are the rest of its outbox and the close notice.
    Closed {
        /// The reason.
        reason: CloseReason,
    },
    /// Events of this and other connections were dropped because too many waited. The event names the connection of the
    /// first dropped event. It concerns all live traces.
    Missed {
        /// How many.
        events: u64,
    },
}

impl TraceKind {
    /// Whether the trace log has a line for it. Live traces get all kinds.
    pub(crate) fn is_logged(&self) -> bool {
        match self {
            Self::Authenticated { .. }
            | Self::Read { .. }
            | Self::Wrote { .. }
            | Self::Closed { .. }
            | Self::Missed { .. } => true,
            Self::Accepted { .. }
            | Self::Joined { .. }
            | Self::Left { .. }
            | Self::Queued { .. }
            | Self::Dropped { .. } => false,
        }
    }
}
