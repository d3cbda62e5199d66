//! The clients with the most traffic, updated with each event: a connection has no counter of its own.

use std::collections::BTreeMap;

use crate::heavy_hitters::HeavyHitters;
use crate::ids::LocalConnId;
use crate::time::Millis;

/// The shortest time over which a rate is averaged, milliseconds.
const SPAN_MIN_MS: u64 = 1_000;

/// Connections by traffic: bytes that their clients sent, and that the kernel took for them.
pub(super) struct Traffic(HeavyHitters<LocalConnId>);

impl Traffic {
    pub(super) fn new(seed: u64, now: Millis) -> Self {
        Self(HeavyHitters::new(seed, now))
    }

    #[inline]
    pub(super) fn note(&mut self, conn: LocalConnId, bytes: usize, now: Millis) {
        self.0.note(bytes as u64, || (conn, now));
    }

    /// The present rates.
    pub(super) fn rates(&mut self, now: Millis) -> ByteRates {
        let (heaviest, span_ms) = self.0.heaviest(now);
        let rate = |bytes: u64| bytes.saturating_mul(1_000) / span_ms.max(SPAN_MIN_MS);
        ByteRates(heaviest.into_iter().map(|(conn, bytes)| (conn, rate(bytes))).collect())
    }
}

/// Bytes a second of the connections with the most traffic, at one moment.
pub(super) struct ByteRates(BTreeMap<LocalConnId, u64>);

impl ByteRates {
    /// The rate of `conn`; 0 for all but the busiest connections.
    pub(super) fn of(&self, conn: LocalConnId) -> u64 {
        self.0.get(&conn).copied().unwrap_or_default()
    }

    /// The connections with a rate. Some may have left.
    pub(super) fn conns(&self) -> impl Iterator<Item = LocalConnId> {
        self.0.keys().copied()
    }
}
