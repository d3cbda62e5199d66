//! Heartbeats wait for company.
//!
//! A heartbeat that comes alone wakes the core, is answered, and lets it sleep again. On a host whose
//! clients have nothing to say that is nearly all a core does, and the waking costs many times the
//! answer, for which nobody waits. So while clients send heartbeats, close after one another, and
//! nothing else, the driver may leave what they send where it is for a short time, and then take it at
//! once. Network cards do the same with their interrupts.

use crate::ids::Millis;
use crate::limits::Limits;

pub(crate) struct Calm {
    /// When something happened that is no heartbeat.
    stirred_at: Millis,
    /// When the latest heartbeats came, and how long after those before them, in milliseconds.
    heard_at: Millis,
    pause_ms: u64,
}

impl Calm {
    pub(crate) fn new(now: Millis) -> Self {
        Self { stirred_at: now, heard_at: now, pause_ms: u64::MAX }
    }

    /// Somebody may wait for what comes next.
    #[inline]
    pub(crate) fn stir(&mut self, now: Millis) {
        self.stirred_at = now;
    }

    /// A heartbeat came.
    pub(crate) fn hear(&mut self, now: Millis) {
        if self.heard_at != now {
            self.pause_ms = now.0 - self.heard_at.0;
            self.heard_at = now;
        }
    }

    /// Until when what clients send may wait: [`Limits::coalesce_ms`] after the latest heartbeats. `None`:
    /// not any longer. Where heartbeats are further apart than that, waiting would save no wake-up.
    pub(crate) fn lasts_until(&self, now: Millis, limits: &Limits) -> Option<Millis> {
        let coalesce_ms = u64::from(limits.coalesce_ms);
        let until = self.heard_at.after(coalesce_ms);
        let is_calm = now.0 - self.stirred_at.0 >= u64::from(limits.calm_ms);
        let is_dense = self.pause_ms < 2 * coalesce_ms;
        (is_calm && is_dense && now < until).then_some(until)
    }
}
