//! The number of a comet.

/// A comet, as long as the [`Fanout`](super::Fanout) has it. A comet that comes back has another number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CometNumber(pub(super) u64);
