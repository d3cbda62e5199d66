//! The time that a thread does not count, as the checker of its deadlines knows it.

use std::rc::Rc;

use comet_core::Millis;

/// A wake-up that is later than this is a stall, milliseconds. Active time stands still for the same time after it.
const STALL_MS: u64 = 250;

/// The stalls of one thread.
#[derive(Default)]
pub(crate) struct StallLog {
    looked_at: Millis,
    /// The times at which stalls were noticed, each with the sum of all stalls up to it, milliseconds.
    noticed: Vec<(Millis, u64)>,
    former: Option<Former>,
}

/// The threads of the former process.
#[derive(Clone)]
struct Former {
    until: Millis,
    logs: Rc<[StallLog]>,
    /// The sum of their stalls that this thread has inherited, milliseconds.
    total: u64,
}

impl StallLog {
    /// The log of a thread that takes over connections of other threads at `now`, and inherits `stalled_ms` of
    /// uncounted time from some of them.
    pub(crate) fn after(logs: Rc<[Self]>, now: Millis, stalled_ms: u64) -> Self {
        let former = Former { until: now, logs, total: stalled_ms };
        Self { looked_at: now, noticed: Vec::new(), former: Some(former) }
    }

    fn total(&self) -> u64 {
        let inherited = self.former.as_ref().map_or(0, |former| former.total);
        self.noticed.last().map_or(inherited, |(_, total)| *total)
    }

    /// The thread looks at its clock. It meant to wake at `due`, and has not counted `stalled_ms` up to now.
    ///
    /// # Errors
    /// If it leaves out time although it was not held up, or more time than it was held up.
    pub(crate) fn look(
        &mut self,
        now: Millis,
        due: Option<Millis>,
        stalled_ms: u64,
    ) -> Result<(), String> {
        let added = stalled_ms - self.total();
        if added > 0 {
            let gap = now.0 - self.looked_at.0;
            let is_late = due.is_some_and(|due| now > due.max(self.looked_at).after(STALL_MS));
            if !is_late || added > gap + STALL_MS {
                return Err(format!(
                    "{added} of {gap} ms do not count, with {due:?} due at {now:?}"
                ));
            }
            self.noticed.push((now, stalled_ms));
        }
        self.looked_at = now;
        Ok(())
    }

    /// The most time since `since` that does not count.
    pub(crate) fn since(&self, since: Millis) -> u64 {
        let inherited = self.former.as_ref().map_or(0, |former| former.total);
        let before = self.noticed.iter().rev().find(|(at, _)| at.after(STALL_MS) < since);
        let stalled_ms = self.total() - before.map_or(inherited, |(_, total)| *total);
        // It may be within the time after a stall in which active time stands still.
        let mine = if stalled_ms == 0 { 0 } else { stalled_ms + STALL_MS };
        // The connection may have belonged to any of the former threads.
        let former = self.former.as_ref().filter(|former| since <= former.until);
        let theirs = former.and_then(|former| former.logs.iter().map(|log| log.since(since)).max());
        mine + theirs.unwrap_or(0)
    }
}
