//! The states of a connection, from accept to its removal.

use comet_proto::Frame;

use crate::message::Identity;
use crate::time::TokenTime;

/// The state of a connection. Input is read in `Upgrading`, `AwaitingAuth` and `Live`, and held in the states that wait
/// for an answer. From `Closing` on it is discarded.
///
/// ```text
/// Upgrading ── AwaitingAuth ── Identifying ── Registering ─┬─ Live ⇄ Receiving, Renewing
///                                                          └─ Joining ⇄ Live
/// any of these ── Closing ── Lingering ── Closed
/// ```
pub(crate) enum ConnState {
    /// WebSocket: the HTTP request is not complete.
    Upgrading,
    /// Waiting for the first op 7.
    AwaitingAuth,
    /// Logic was asked for the identity behind the token.
    Identifying { version: u16, sequence: i32, token_at: TokenTime },
    /// The homes of the user and the key were asked to register the connection.
    Registering(Box<Registering>),
    /// Authenticated. The room's home was asked to join; the reply to the client follows the home's answer.
    Joining { reply: AwaitedReply },
    /// Authenticated and registered.
    Live,
    /// As `Live`. Logic is handling a message of this client; the reply follows logic's answer.
    Receiving { reply: AwaitedReply },
    /// As `Live`. Logic was asked about a fresh token of this client; the reply follows logic's answer.
    Renewing { reply: AwaitedReply },
    /// It has a close reason. Its outbox is being sent, the close notice last.
    Closing,
    /// The write side is shut. Ends when the peer closes, or at the linger deadline.
    Lingering,
    /// Both sides are shut. The slot is free after [`crate::Shard::handle_gone`].
    Closed,
}

impl ConnState {
    /// Its name for operators.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Upgrading => "upgrading",
            Self::AwaitingAuth => "awaiting_auth",
            Self::Identifying { .. } => "identifying",
            Self::Registering(_) => "registering",
            Self::Joining { .. } => "joining",
            Self::Live => "live",
            Self::Receiving { .. } => "receiving",
            Self::Renewing { .. } => "renewing",
            Self::Closing => "closing",
            Self::Lingering => "lingering",
            Self::Closed => "closed",
        }
    }
}

/// What is known of a connection between logic's answer and the homes' answer.
pub(crate) struct Registering {
    pub(crate) version: u16,
    pub(crate) sequence: i32,
    /// Without the key, which was sent to the homes.
    pub(crate) identity: Identity,
}

/// The reply that a client waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AwaitedReply {
    /// Version and sequence are copied from the request.
    pub(crate) version: u16,
    pub(crate) operation: i32,
    pub(crate) sequence: i32,
}

impl AwaitedReply {
    /// The reply to `request` with `operation`.
    pub(crate) fn to(request: &Frame<'_>, operation: i32) -> Self {
        Self { version: request.version, operation, sequence: request.sequence }
    }
}
