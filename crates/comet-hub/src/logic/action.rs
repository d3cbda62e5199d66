//! What the client of logic wants done and logged.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use comet_core::{Message, ShardId};

use super::outcome::StatusCode;
use super::renewal::{RoomPieces, RoomsByHome, Told};
use super::request::Request;

/// A connection to an address. A newer one of the same address has a higher generation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId {
    /// Number of the address in `LogicConfig::addresses`.
    pub address: usize,
    /// How many connections to it there were before.
    pub generation: u64,
}

/// One attempt of a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AttemptId {
    /// The call; no two have the same number.
    pub call: u64,
    /// Attempts of the call before this one.
    pub attempt: u32,
}

/// What came of a ping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PingOutcome {
    /// There was an answer, be it that there is no such call.
    Answered,
    /// The answer is that it does not serve.
    NotServing,
    /// The answer is that it takes no call of this comet, for want of a token, and what to do about it.
    CallerRefused(Box<str>),
    /// There was none, and why.
    Failed(Box<str>),
}

/// What the driver has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Open the connection; to be answered with `LogicClient::handle_connected` or
    /// `LogicClient::handle_connect_failed`.
    Connect(ConnectionId),
    /// Ask over the connection whether logic serves; to be answered with `LogicClient::handle_ping`.
    Ping(ConnectionId),
    /// Nothing new goes over the connection. Give up opening and pinging it; attempts under way go on.
    Close(ConnectionId),
    /// Send the request over the connection; to be answered with `LogicClient::handle_reply`.
    Send {
        /// What to answer with.
        attempt: AttemptId,
        /// Where it goes.
        connection: ConnectionId,
        /// What is asked.
        request: Arc<Request>,
    },
    /// Give up the attempt: nobody waits for its outcome.
    Abandon(AttemptId),
    /// Count who is online in each room; to be answered with `LogicClient::handle_rooms`.
    CountRooms {
        /// For [`RoomPieces::cut`].
        told: Option<Told>,
    },
    /// Free what a renewal of room counts does not need any more. It may be long.
    Free(Unneeded),
}

/// What is left of a renewal of room counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unneeded {
    /// The rooms that logic was sent.
    Pieces(Arc<RoomPieces>),
    /// An answer of logic that another one replaces.
    Answer(RoomsByHome),
}

/// A change that belongs into the log; [`fmt::Display`] is its line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Calls may go to the address.
    Available {
        /// Its name.
        address: Box<str>,
        /// It was available before.
        is_back: bool,
    },
    /// An address that was never available is not.
    NotReached {
        /// Its name.
        address: Box<str>,
        /// What failed.
        cause: Box<str>,
    },
    /// The rooms of one bucket do not fit a request that goim's logic takes. They are sent all the same.
    RoomsBeyond {
        /// Bytes of the request.
        bytes: usize,
    },
    /// The address is not available any more.
    Unavailable {
        /// Its name.
        address: Box<str>,
        /// What failed.
        cause: Box<str>,
    },
    /// It was the last one.
    NoneAvailable,
    /// Calls of a procedure fail in a way in which none failed before.
    CallsFail {
        /// The procedure.
        rpc: &'static str,
        /// The code of the failure.
        code: StatusCode,
        /// The message of logic.
        message: Box<str>,
    },
    /// Calls of a procedure do not fail in this way any more.
    CallsSucceed {
        /// The procedure.
        rpc: &'static str,
        /// The code of the failure that is over.
        code: StatusCode,
        /// How many calls failed with it.
        failed: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Available { address, is_back: false } => {
                write!(f, "logic {address} is available")
            }
            Self::Available { address, is_back: true } => {
                write!(f, "logic {address} is available again")
            }
            Self::NotReached { address, cause } => {
                write!(f, "logic {address} cannot be reached: {cause}")
            }
            Self::Unavailable { address, cause } => {
                write!(f, "logic {address} is not available any more: {cause}")
            }
            Self::RoomsBeyond { bytes } => write!(
                f,
                "RenewOnline of logic has {bytes} bytes, more than goim's logic takes: one of the 64 parts \
                 that rooms are divided into is that long"
            ),
            Self::NoneAvailable => {
                f.write_str("no logic service is available: new clients are refused until one is")
            }
            Self::CallsFail { rpc, code, message } => {
                write!(f, "{rpc} of logic fails with {code}: {message:?}")
            }
            Self::CallsSucceed { rpc, code, failed } => {
                write!(f, "{rpc} of logic succeeds again: {failed} calls failed with {code}")
            }
        }
    }
}

/// What comes out, in the order in which it was decided.
#[derive(Default)]
pub(super) struct Output {
    pub(super) messages: VecDeque<(ShardId, Message)>,
    pub(super) actions: VecDeque<Action>,
    pub(super) events: VecDeque<Event>,
}
