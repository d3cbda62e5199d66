//! What a driver and a shard say to each other about the connections of push callers, and their bounds.

use std::fmt;
use std::sync::Arc;

use subtle::{Choice, ConstantTimeEq};

use crate::ledger::Tally;

/// Where a shard keeps the connection of a caller. It is reused once the driver has said that the connection is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct CallerSlot(pub u16);

impl CallerSlot {
    pub(crate) fn index(self) -> usize {
        self.0.into()
    }
}

/// To whom a push of a caller is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CallerTarget {
    /// The connection that holds a key.
    Key(Box<str>),
    /// The sessions of a user.
    User(i64),
    /// The members of a room.
    Room(Arc<str>),
    /// Everybody.
    All,
}

/// What became of a push of a caller on other hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToldElsewhere {
    /// The sum over those that have told.
    pub tally: Tally,
    /// So many of the names that the push gives are held there.
    pub held: u32,
    /// Hosts that have not told.
    pub unanswered: u32,
    /// Of the frame of the push.
    pub bytes: usize,
}

/// What a driver has to do with the socket of a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallerOperation<'a> {
    /// Receive once.
    Receive,
    /// Send. The bytes stay where they are until the driver has said what became of it.
    Send(&'a [u8]),
    /// Shut our side. The peer's end of the stream follows, or [`CallerOperation::Close`].
    ShutWrite,
    /// Close, once no operation is in flight.
    Close,
}

/// Bounds of push callers at a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallerLimits {
    /// Connections at once. One more takes the place of one without a call.
    pub connections: u16,
    /// Longest body of a pushed frame, bytes.
    pub frame_max: usize,
    /// How long a push may take, and how long a request may take to come in, milliseconds.
    pub timeout_ms: u32,
    /// Who may push.
    pub tokens: Tokens,
}

impl Default for CallerLimits {
    fn default() -> Self {
        let tokens = Tokens::default();
        Self { connections: 64, frame_max: 4 << 20, timeout_ms: 5_000, tokens }
    }
}

/// Tokens, of which a caller has to send one; none: nobody is asked.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tokens(Box<[Box<str>]>);

impl Tokens {
    /// These.
    #[must_use]
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        Self(tokens.into_iter().map(Box::from).collect())
    }

    /// Nobody is asked for one.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `given` is one of them. All are compared, in a time that does not depend on how much of one is right.
    pub(crate) fn contains(&self, given: &[u8]) -> bool {
        let is_equal = self.0.iter().map(|token| given.ct_eq(token.as_bytes()));
        bool::from(is_equal.fold(Choice::from(0), |any, is_equal| any | is_equal))
    }
}

/// Without the tokens, which are secrets.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}
