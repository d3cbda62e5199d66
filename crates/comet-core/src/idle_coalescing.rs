//! Idle coalescing: heartbeats that arrive close together are answered together.
//!
//! A heartbeat that arrives alone wakes the core, is answered, and lets the core sleep again. If clients are otherwise
//! idle, a core does little else. The wake-up costs many times the answer, and no client needs the answer at once. So
//! while clients send heartbeats at short intervals and nothing else, the driver may leave received bytes in the kernel
//! for a short time and read them together. Network cards coalesce interrupts in the same way.

use crate::limits::Limits;
use crate::time::Millis;

pub(crate) struct IdleCoalescing {
    /// When something other than a heartbeat last happened.
    active_at: Millis,
    /// When the latest heartbeat arrived.
    heartbeat_at: Millis,
    /// The time between the two latest instants at which heartbeats arrived, milliseconds.
    interval_ms: u64,
}

impl IdleCoalescing {
    pub(crate) fn new(now: Millis) -> Self {
        Self { active_at: now, heartbeat_at: now, interval_ms: u64::MAX }
    }

    /// Something other than a heartbeat happened, and its peer may be waiting for the answer.
    #[inline]
    pub(crate) fn note_activity(&mut self, now: Millis) {
        self.active_at = now;
    }

    /// A heartbeat arrived.
    pub(crate) fn note_heartbeat(&mut self, now: Millis) {
        if self.heartbeat_at != now {
            self.interval_ms = now.0 - self.heartbeat_at.0;
            self.heartbeat_at = now;
        }
    }

    /// The time until which received bytes may wait: [`Limits::coalesce_ms`] after the latest heartbeat. `None`: they
    /// may not wait. If heartbeats are further apart than twice that time, waiting saves no wake-up.
    pub(crate) fn waits_until(&self, now: Millis, limits: &Limits) -> Option<Millis> {
        let coalesce_ms = u64::from(limits.coalesce_ms);
        let until = self.heartbeat_at.after(coalesce_ms);
        let is_idle = now.0 - self.active_at.0 >= u64::from(limits.coalesce_after_ms);
        let is_dense = self.interval_ms < 2 * coalesce_ms;
        (is_idle && is_dense && now < until).then_some(until)
    }
}
