//! The actions and log events of the client of logic.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use comet_core::{Message, ShardId};

use super::outcome::StatusCode;
use super::request::Request;
use super::room_counts::{RoomPieces, RoomsByHome, SentRooms};

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

/// The outcome of a ping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PingOutcome {
    /// There was an answer, even one that there is no such procedure.
    Answered,
    /// The answer is that logic does not serve.
    NotServing,
    /// The answer is that logic refuses calls of this comet for lack of a token; with a sentence on what to do.
    CallerRefused(Box<str>),
    /// There was no answer; with the reason.
    Failed(Box<str>),
}

/// A task for the driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Open the connection. Report the outcome with `LogicClient::handle_connected` or
    /// `LogicClient::handle_connect_failed`.
    Connect(ConnectionId),
    /// Ask over the connection whether logic serves. Report the outcome with `LogicClient::handle_ping`.
    Ping(ConnectionId),
    /// Send no new requests over the connection. Give up opening and pinging it; attempts under way continue.
    Close(ConnectionId),
    /// Send the request over the connection. Report the outcome with `LogicClient::handle_reply`.
    Send {
        /// The id for reporting the outcome.
        attempt: AttemptId,
        /// The connection to use.
        connection: ConnectionId,
        /// The request.
        request: Arc<Request>,
    },
    /// Give up the attempt: its outcome is not awaited.
    Abandon(AttemptId),
    /// Count the members online in each room. Report them with `LogicClient::handle_rooms`.
    CountRooms {
        /// The argument for [`RoomPieces::cut`].
        sent_rooms: Option<SentRooms>,
    },
    /// Free data that an update of room counts no longer needs. It may be large.
    Free(Unneeded),
}

/// Data left over from an update of room counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unneeded {
    /// The rooms that logic was sent.
    Pieces(Arc<RoomPieces>),
    /// An answer of logic that was replaced by a later one.
    Answer(RoomsByHome),
}

/// A change to be logged; [`fmt::Display`] is its line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Calls may go to the address.
    Available {
        /// Its name.
        address: Box<str>,
        /// It was available before.
        is_back: bool,
    },
    /// An address that was never available could not be reached.
    NotReached {
        /// Its name.
        address: Box<str>,
        /// What failed.
        cause: Box<str>,
    },
    /// The rooms of one bucket do not fit a request that goim's logic takes. They are sent nevertheless.
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
    /// The last available address has become unavailable.
    NoneAvailable,
    /// Calls of a procedure begin to fail in this way.
    CallsFail {
        /// The procedure.
        rpc: &'static str,
        /// The code of the failure.
        code: StatusCode,
        /// The message of logic.
        message: Box<str>,
    },
    /// Calls of a procedure no longer fail in this way.
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

/// The outputs, in the order in which they were decided.
#[derive(Default)]
pub(super) struct Output {
    pub(super) messages: VecDeque<(ShardId, Message)>,
    pub(super) actions: VecDeque<Action>,
    pub(super) events: VecDeque<Event>,
}
