//! The time as the core knows it: milliseconds given by the caller, and ticks of the timer wheel.

use crate::limits::TICK_MS;

/// Milliseconds since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The instant `millis` later.
    #[must_use]
    pub fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The tick that this instant is in.
    pub(crate) fn tick(self) -> Tick {
        Tick(u32::try_from(self.0 / TICK_MS).unwrap_or(u32::MAX))
    }

    /// The first tick that begins at this instant or later.
    pub(crate) fn tick_at_or_after(self) -> Tick {
        Tick(u32::try_from(self.0.div_ceil(TICK_MS)).unwrap_or(u32::MAX))
    }
}

/// An instant in units of [`TICK_MS`] since the process started.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(transparent)]
pub(crate) struct Tick(pub(crate) u32);

impl Tick {
    /// When this tick begins.
    pub(crate) fn begin(self) -> Millis {
        Millis(u64::from(self.0) * TICK_MS)
    }
}
