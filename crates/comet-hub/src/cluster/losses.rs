//! Notices that were lost here, and when all rooms are announced again because of that.
//!
//! An overloaded host loses the announcements of rooms by others, and has to ask again. The answers add to its load. So
//! each further attempt waits longer, and for a random time, because other hosts lost notices at the same moment.

use comet_core::{Jitter, Millis};

/// How long a host waits before it asks again: the first time, and at most.
const PAUSE_MS: u32 = 5_000;
const PAUSE_MAX_MS: u32 = 5 * 60_000;
/// After this long without a loss and without an announcement of all rooms, the next pause is the first again.
const QUIET_MS: u64 = 60_000;

#[derive(Default)]
pub(super) struct Losses {
    /// How many notices were lost.
    count: u64,
    /// The latest pause. 0: there was none.
    pause_ms: u32,
    /// The time of the latest loss, or of the latest announcement of all rooms, which may cause one.
    latest: Millis,
}

impl Losses {
    /// Notes that `count` notices were lost so far. `true`: more than before.
    pub(super) fn note(&mut self, now: Millis, count: u64, announces_all: bool) -> bool {
        if count <= self.count {
            return false;
        }
        if !announces_all && self.latest.after(QUIET_MS) <= now {
            self.pause_ms = 0;
        }
        (self.count, self.latest) = (count, now);
        true
    }

    /// Notes that all rooms are being announced.
    pub(super) fn note_telling(&mut self, now: Millis) {
        self.latest = now;
    }

    /// How long to wait until all rooms are announced again.
    pub(super) fn pause_ms(&mut self, jitter: &mut Jitter) -> u64 {
        self.pause_ms = match self.pause_ms {
            0 => PAUSE_MS,
            pause_ms => (2 * pause_ms).min(PAUSE_MAX_MS),
        };
        jitter.within(self.pause_ms / 2..=self.pause_ms).into()
    }
}
