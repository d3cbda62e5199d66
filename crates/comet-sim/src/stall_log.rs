//! What a thread does not count of its time, as a checker of its deadlines knows it.

use std::rc::Rc;

use comet_core::Millis;

/// A wake-up that is later than this is a stall, milliseconds. Active time stands still for as long after it.
const STALL_MS: u64 = 250;

/// The stalls of one thread.
#[derive(Default)]
pub(crate) struct StallLog {
    looked_at: Millis,
    /// When one was noticed, and what all up to it add up to, milliseconds.
    noticed: Vec<(Millis, u64)>,
    former: Option<Former>,
}

/// The threads of another process, before this one.
#[derive(Clone)]
struct Former {
    until: Millis,
    logs: Rc<[StallLog]>,
    /// What this thread has inherited of them, milliseconds.
    total: u64,
}

impl StallLog {
    /// Of a thread that goes on at `now` with connections of other ones, and with what some of them have not counted.
    pub(crate) fn after(logs: Rc<[Self]>, now: Millis, stalled_ms: u64) -> Self {
        let former = Former { until: now, logs, total: stalled_ms };
        Self { looked_at: now, noticed: Vec::new(), former: Some(former) }
    }

    fn total(&self) -> u64 {
        let inherited = self.former.as_ref().map_or(0, |former| former.total);
        self.noticed.last().map_or(inherited, |(_, total)| *total)
    }

    /// The thread looks at its clock. It meant to wake at `due`, and `stalled_ms` is what it has not counted up
    /// to now.
    ///
    /// # Errors
    /// It was not held up.
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

    /// How much of the time since `since` does not count, at most.
    pub(crate) fn since(&self, since: Millis) -> u64 {
        let inherited = self.former.as_ref().map_or(0, |former| former.total);
        let before = self.noticed.iter().rev().find(|(at, _)| at.after(STALL_MS) < since);
        let stalled_ms = self.total() - before.map_or(inherited, |(_, total)| *total);
        // It may be within the time after a stall in which active time stands still.
        let mine = if stalled_ms == 0 { 0 } else { stalled_ms + STALL_MS };
        // A connection may have been any thread's.
        let former = self.former.as_ref().filter(|former| since <= former.until);
        let theirs = former.and_then(|former| former.logs.iter().map(|log| log.since(since)).max());
        mine + theirs.unwrap_or(0)
    }
}
