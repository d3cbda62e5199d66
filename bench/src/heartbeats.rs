//! The schedule of the connections' heartbeats, which are spread evenly over the interval.

use crate::clock::SECOND_NS;

/// Less than half of goim's five minutes.
const INTERVAL_NS: u64 = 120 * SECOND_NS;
/// Short runs have no heartbeats.
const FIRST_NS: u64 = 60 * SECOND_NS;

/// The schedule of all connections together.
#[derive(Clone, Copy)]
pub(crate) struct Heartbeats {
    /// 0 for none.
    interval_ns: u64,
    /// When the last one was due.
    last_ns: u64,
    /// When it was last checked whether one is due.
    looked_ns: u64,
    /// Index of the connection to begin the next search with.
    pub next: usize,
}

impl Heartbeats {
    /// A schedule that keeps connections open, for a receiver that starts at `now_ns`.
    pub(crate) fn default_from(now_ns: u64) -> Self {
        let last_ns = now_ns + FIRST_NS;
        Self { interval_ns: INTERVAL_NS, last_ns, looked_ns: now_ns, next: 0 }
    }

    /// From `now_ns` on, each connection sends a heartbeat every so many ns; 0 for none.
    pub(crate) fn set_interval(&mut self, interval_ns: u64, now_ns: u64) {
        *self = Self { interval_ns, last_ns: now_ns, looked_ns: now_ns, ..*self };
    }

    /// Takes the next heartbeat if it is due, with `live` connections; returns when it was due.
    pub(crate) fn take(&mut self, live: usize, now_ns: u64) -> Option<u64> {
        let due_ns = self.due_ns(live).filter(|&due_ns| due_ns <= now_ns)?;
        self.last_ns = due_ns;
        Some(due_ns)
    }

    /// All heartbeats that were due at `now_ns` are sent; returns the time until the next one, in ns.
    pub(crate) fn looked(&mut self, live: usize, now_ns: u64) -> u64 {
        self.looked_ns = now_ns;
        self.due_ns(live).map_or(u64::MAX, |due_ns| due_ns - now_ns)
    }

    fn due_ns(&self, live: usize) -> Option<u64> {
        if self.interval_ns == 0 || live == 0 {
            return None;
        }
        let step_ns = (self.interval_ns / live as u64).max(1);
        // If more connections are live than at the last check, it is due earlier, but was not due then.
        Some((self.last_ns + step_ns).max(self.looked_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLISECOND_NS;

    /// Checks every 10 ms from `from_ms` to `to_ms`, with `live` connections; returns how many heartbeats were due.
    fn count(heartbeats: &mut Heartbeats, live: usize, from_ms: u64, to_ms: u64) -> u64 {
        let mut count = 0;
        for now_ms in (from_ms..to_ms).step_by(10) {
            let now_ns = now_ms * MILLISECOND_NS;
            while let Some(due_ns) = heartbeats.take(live, now_ns) {
                assert!(due_ns >= heartbeats.looked_ns, "{due_ns} ns is past at {now_ms} ms");
                count += 1;
            }
            heartbeats.looked_ns = now_ns;
        }
        count
    }

    #[test]
    fn late_connections_send_their_heartbeat_at_once() {
        let interval_ns = 60 * SECOND_NS;
        let heartbeats = Heartbeats { interval_ns, last_ns: 0, looked_ns: 0, next: 0 };
        let check = |before: usize| {
            let mut heartbeats = heartbeats;
            assert_eq!(count(&mut heartbeats, before, 0, 30_000), before as u64 / 2);
            // One at once, and then one every 60 ms.
            assert_eq!(count(&mut heartbeats, 1000, 30_000, 30_050), 1);
            assert_eq!(count(&mut heartbeats, 1000, 30_050, 90_000), 1000);
            assert_eq!(count(&mut heartbeats, 0, 90_000, 200_000), 0);
            assert_eq!(count(&mut heartbeats, 1, 200_000, 200_050), 1, "not all of those before");
        };
        check(0);
        check(1);
    }
}
