//! The pace of close notices while a shard drains, or moves clients off.

use comet_core::Millis;

/// Close notices under way: how many connections are to get one, and how many have got one.
pub(crate) struct Drain {
    pub(crate) since: Millis,
    pub(crate) over_ms: u64,
    pub(crate) connections: u64,
    /// The order is about all connections, including later ones.
    pub(crate) is_all: bool,
    pub(crate) notices: u64,
}

impl Drain {
    /// Counts a close notice at `now`, and checks that it does not come early.
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
