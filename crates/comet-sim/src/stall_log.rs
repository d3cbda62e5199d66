//! What a thread does not count of its time, as a checker of its deadlines knows it.

use comet_core::Millis;

/// A wake-up that is later than this is a stall, milliseconds. Active time stands still for as long after it.
const STALL_MS: u64 = 250;

/// The stalls of one thread.
#[derive(Default)]
pub(crate) struct StallLog {
    looked_at: Millis,
    /// When one was noticed, and what all up to it add up to, milliseconds.
    noticed: Vec<(Millis, u64)>,
}

impl StallLog {
    /// Of a thread that goes on at `now` with what another one has not counted.
    pub(crate) fn after(now: Millis, stalled_ms: u64) -> Self {
        Self { looked_at: now, noticed: vec![(now, stalled_ms)] }
    }

    fn total(&self) -> u64 {
        self.noticed.last().map_or(0, |(_, total)| *total)
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
        let before = self.noticed.iter().rev().find(|(at, _)| at.after(STALL_MS) < since);
        let stalled_ms = self.total() - before.map_or(0, |(_, total)| *total);
        // It may be within the time after a stall in which active time stands still.
        if stalled_ms == 0 { 0 } else { stalled_ms + STALL_MS }
    }
}
