//! The number of a comet.

/// A comet, as long as it is one of the [`Fanout`](super::Fanout)'s. One that comes back has another number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CometNumber(pub(super) u64);
