//! Time in the core: milliseconds that the caller provides, and ticks of the timer wheel.

/// Granularity of every deadline, milliseconds.
pub const TICK_MS: u64 = 50;

/// Milliseconds since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The instant `millis` later.
    #[must_use]
    pub fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The tick that contains this instant.
    pub(crate) fn tick(self) -> Tick {
        Tick(u32::try_from(self.0 / TICK_MS).unwrap_or(u32::MAX))
    }

    /// The first tick that begins at this instant or later.
    pub(crate) fn tick_at_or_after(self) -> Tick {
        Tick(u32::try_from(self.0.div_ceil(TICK_MS)).unwrap_or(u32::MAX))
    }
}

/// The arrival time of a connection's token (op 7) at its shard. It orders the connections of a shard by age, and those
/// of different shards to the millisecond. It has 46 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct TokenTime(u64);

impl TokenTime {
    /// Bits that distinguish the tokens of one millisecond. If there are more tokens, the later ones count as younger.
    const ORDER_BITS: u32 = 8;
    const MAX: u64 = (1 << 46) - 1;

    /// The time of a token that arrives at `now`, on a shard whose latest token has the time `self`.
    pub(crate) fn next(self, now: Millis) -> Self {
        Self((self.0 + 1).max(now.0 << Self::ORDER_BITS).min(Self::MAX))
    }

    /// When the token arrived, to the millisecond.
    pub(crate) fn millis(self) -> Millis {
        Millis(self.0 >> Self::ORDER_BITS)
    }

    /// The upper 14 and the lower 32 bits.
    pub(crate) fn to_parts(self) -> (u16, u32) {
        ((self.0 >> 32) as u16, self.0 as u32)
    }

    pub(crate) fn from_parts((high, low): (u16, u32)) -> Self {
        Self(u64::from(high) << 32 | u64::from(low))
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
