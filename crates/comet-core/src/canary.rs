//! Canaries: known bugs that a test puts back to show that the simulator finds them.
//!
//! They exist only with the feature `canary`. Without it [`Canary::is_released`] is always false, and the compiler
//! removes them.

/// A bug that can be put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Canary {
    /// Deadlines close connections whose input is not read yet.
    UnreadInput,
    /// The late release of a replaced owner frees the key of its successor.
    StaleRelease,
    /// Pushes lost with a connection are not counted as lost.
    UncountedLoss,
    /// The rest of a short send is never sent.
    ShortSend,
    /// The home of a room announces one partial tally too few.
    MissingPartial,
    /// A push overtakes the reply to operation 7.
    EarlyPush,
    /// The home of a room is not told that a shard has no member left.
    ForgottenRoom,
    /// A message for a connection that is gone reaches the next connection in its slot.
    ReusedGeneration,
    /// The end of a session also ends the next session of its key at logic.
    EndInUse,
    /// A client's message that logic may have seen is sent again.
    RepeatedReceive,
    /// A message overtakes others that wait for the same inbox.
    OvertakenLane,
    /// A connection that registers late does not remind logic of its key, although logic was told about the key's end
    /// meanwhile.
    LateClaim,
    /// A client is not told about pushes that it has lost, in a room with a history.
    UntoldGap,
    /// The members of a room are not told that a connection has ended.
    UntoldEnd,
}

impl Canary {
    /// Every canary.
    pub const ALL: [Self; 14] = [
        Self::UnreadInput,
        Self::StaleRelease,
        Self::UncountedLoss,
        Self::ShortSend,
        Self::MissingPartial,
        Self::EarlyPush,
        Self::ForgottenRoom,
        Self::ReusedGeneration,
        Self::EndInUse,
        Self::RepeatedReceive,
        Self::OvertakenLane,
        Self::LateClaim,
        Self::UntoldGap,
        Self::UntoldEnd,
    ];

    /// Whether the bug is put back on this thread.
    #[cfg(not(feature = "canary"))]
    #[inline]
    #[must_use]
    pub const fn is_released(self) -> bool {
        false
    }
}

#[cfg(feature = "canary")]
mod released {
    use std::cell::Cell;

    use super::Canary;

    thread_local! {
        static RELEASED: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    impl Canary {
        /// Whether the bug is put back on this thread.
        #[must_use]
        pub fn is_released(self) -> bool {
            RELEASED.get() == Some(self)
        }

        /// Puts the bug back on this thread, instead of any other.
        pub fn release(self) {
            RELEASED.set(Some(self));
        }
    }
}
