//! The pace of close notices while a shard drains, or moves clients off.

use comet_core::Millis;

/// Close notices that are under way: connections that are to get one, and how many did.
pub(crate) struct Drain {
    pub(crate) since: Millis,
    pub(crate) over_ms: u64,
    pub(crate) connections: u64,
    /// All that there are, also those that came later.
    pub(crate) is_all: bool,
    pub(crate) notices: u64,
}

impl Drain {
    /// One more close notice at `now`, which must not come before its time.
    pub(crate) fn note_close(&mut self, now: Millis) -> Result<(), String> {
        self.notices += 1;
        let elapsed = now.0 - self.since.0;
        let Self { over_ms, connections, is_all, notices, .. } = *self;
        let is_due = match elapsed >= over_ms {
            true => is_all || notices <= connections,
            false => notices * over_ms <= connections * elapsed,
        };
        let what =
            || format!("close notice {notices} of {connections} after {elapsed} of {over_ms} ms");
        is_due.then_some(()).ok_or_else(what)
    }
}
