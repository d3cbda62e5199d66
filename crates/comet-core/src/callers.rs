//! The interface between a driver and a shard for connections of push callers, and the limits of these.

use std::fmt;
use std::sync::Arc;

use subtle::{Choice, ConstantTimeEq};

use crate::ledger::Tally;

/// A shard's index of a caller's connection. It is reused once the driver has said that the connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct CallerSlot(pub u16);

impl CallerSlot {
    pub(crate) fn index(self) -> usize {
        self.0.into()
    }
}

/// The target of a push of a caller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CallerTarget {
    /// The connection that holds a key.
    Key(Box<str>),
    /// The sessions of a user.
    User(i64),
    /// The members of a room.
    Room(Arc<str>),
    /// All connections.
    All,
}

/// What became of a caller's push on other hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherHostsTally {
    /// The sum over the hosts that have answered.
    pub tally: Tally,
    /// How many of the keys or users in the push other hosts hold.
    pub held: u32,
    /// The number of hosts that have not answered.
    pub unanswered: u32,
    /// The length of the push's frame.
    pub bytes: usize,
}

/// An operation of the driver on the socket of a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallerOperation<'a> {
    /// Receive once.
    Receive,
    /// Send. The bytes keep their address until the driver has reported the result.
    Send(&'a [u8]),
    /// Shut our write side. The end of the peer's stream follows, or [`CallerOperation::Close`].
    ShutWrite,
    /// Close, once no operation is in flight.
    Close,
}

/// Limits of push callers at a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallerLimits {
    /// The number of connections. A new one above it replaces one without a call.
    pub connections: u16,
    /// The longest body of a pushed frame, bytes.
    pub frame_max: usize,
    /// The longest time for a push, and for receiving a request, milliseconds.
    pub timeout_ms: u32,
    /// The tokens of those who may push.
    pub tokens: Tokens,
}

impl Default for CallerLimits {
    fn default() -> Self {
        let tokens = Tokens::default();
        Self { connections: 64, frame_max: 4 << 20, timeout_ms: 5_000, tokens }
    }
}

/// The tokens of which a caller has to send one. Empty: no token is required.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tokens(Box<[Box<str>]>);

impl Tokens {
    /// A set of these tokens.
    #[must_use]
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        Self(tokens.into_iter().map(Box::from).collect())
    }

    /// Whether no token is required.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `given` is one of them. All are compared, in a time that does not depend on how much of a token matches.
    pub(crate) fn contains(&self, given: &[u8]) -> bool {
        let is_equal = self.0.iter().map(|token| given.ct_eq(token.as_bytes()));
        bool::from(is_equal.fold(Choice::from(0), |any, is_equal| any | is_equal))
    }
}

/// Omits the tokens, which are secrets.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}
