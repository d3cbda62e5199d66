//! Notices that were lost here, and when all rooms are told again for that.
//!
//! A host that has too much to take loses what others tell of rooms, and has to ask again. The answers are more to take. So each time that
//! follows soon waits longer, and by chance, because other hosts have lost notices at the same moment.

use comet_core::{Jitter, Millis};

/// How long a host waits before it asks again: the first time, and at most.
const PAUSE_MS: u32 = 5_000;
const PAUSE_MAX_MS: u32 = 5 * 60_000;
/// Without a loss for so long, and without a telling of all rooms, the next one is the first.
const QUIET_MS: u64 = 60_000;

#[derive(Default)]
pub(super) struct Losses {
    /// How many were lost.
    count: u64,
    /// The latest pause. 0: there was none.
    pause_ms: u32,
    /// When one was lost last, or rooms were told that may cause it.
    latest: Millis,
}

impl Losses {
    /// So many were lost so far. `true`: more than before.
    pub(super) fn note(&mut self, now: Millis, count: u64, tells_all: bool) -> bool {
        if count <= self.count {
            return false;
        }
        if !tells_all && self.latest.after(QUIET_MS) <= now {
            self.pause_ms = 0;
        }
        (self.count, self.latest) = (count, now);
        true
    }

    /// All rooms are being told.
    pub(super) fn note_telling(&mut self, now: Millis) {
        self.latest = now;
    }

    /// How long to wait until all rooms are told again.
    pub(super) fn pause_ms(&mut self, jitter: &mut Jitter) -> u64 {
        self.pause_ms = match self.pause_ms {
            0 => PAUSE_MS,
            pause_ms => (2 * pause_ms).min(PAUSE_MAX_MS),
        };
        jitter.within(self.pause_ms / 2..=self.pause_ms).into()
    }
}
