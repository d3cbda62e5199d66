//! The longest time that each connection had nothing to read, when it should have had something at regular times.

use crate::stats::Latencies;

/// A measurement under way.
pub(crate) struct Pauses {
    /// The time between two messages when they are sent.
    interval_ns: u64,
    since_ns: u64,
    /// By connection: when its last message arrived, and the longest time between two. Shorter than the number of
    /// connections if the last ones have had none.
    connections: Vec<(u64, u64)>,
}

impl Pauses {
    /// Begins a measurement after `former`: the first pause of each connection counts from its last message on.
    pub(crate) fn begin(interval_ns: u64, now_ns: u64, former: Option<Self>) -> Self {
        let mut connections = former.map(|former| former.connections).unwrap_or_default();
        connections.iter_mut().for_each(|(_, longest_ns)| *longest_ns = 0);
        Self { interval_ns, since_ns: now_ns, connections }
    }

    /// A message arrived.
    pub(crate) fn note(&mut self, connection: usize, now_ns: u64) {
        if self.connections.len() <= connection {
            self.connections.resize(connection + 1, (self.since_ns, 0));
        }
        let (last_ns, longest_ns) = &mut self.connections[connection];
        *longest_ns = (*longest_ns).max(now_ns.saturating_sub(*last_ns));
        *last_ns = now_ns;
    }

    /// The longest pauses so far, less the interval; the time since the last message also counts.
    pub(crate) fn longest(&self, which: impl Iterator<Item = usize>, now_ns: u64) -> Latencies {
        let mut all = Latencies::default();
        for connection in which {
            let known = self.connections.get(connection).copied();
            let (last_ns, longest_ns) = known.unwrap_or((self.since_ns, 0));
            let longest_ns = longest_ns.max(now_ns.saturating_sub(last_ns));
            all.saturating_record(longest_ns.saturating_sub(self.interval_ns));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_counts_and_so_does_silence() {
        let mut pauses = Pauses::begin(100, 1_000, None);
        let check = |pauses: &Pauses, now_ns, expected: [u64; 3]| {
            let found = [0, 1, 2].map(|at| pauses.longest(std::iter::once(at), now_ns).max());
            assert_eq!(found, expected);
        };
        for (connection, now_ns) in [(0, 1_050), (0, 1_150), (1, 1_200), (0, 1_400), (0, 1_500)] {
            pauses.note(connection, now_ns);
        }
        // The first connection had 250 between two messages, the second got nothing since 1,200, and the third nothing at all.
        check(&pauses, 1_500, [150, 200, 400]);
        let mut pauses = Pauses::begin(100, 1_500, Some(pauses));
        pauses.note(0, 1_600);
        // The pause of the second connection began before.
        check(&pauses, 1_600, [0, 300, 0]);
    }
}
