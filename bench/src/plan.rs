//! What is pushed, and when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::clock::{SECOND_NS, now_ns};

/// What to push, and when.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Distinguishes the messages of one turn from those of any other.
    pub run: u32,
    pub operation: i32,
    /// Bytes of each body.
    pub size: usize,
    /// Messages in one push; several are sent as a run of frames.
    pub batch: u64,
    /// Connections of each stream.
    pub members: Vec<u64>,
    pub pattern: Pattern,
    /// Time between ticks; `None` is flat out.
    pub interval_ns: Option<u64>,
    pub duration_ns: u64,
    /// The number of ticks under way when flat out.
    pub window: u64,
    /// When flat out, so many pushes may be unanswered, and their arrival is not checked.
    pub unanswered_max: Option<u64>,
    /// Shared with whoever may end it early.
    pub course: Arc<Course>,
}

/// The course of a plan, for others than its sender.
#[derive(Default, Debug)]
pub(crate) struct Course {
    is_over: AtomicBool,
    /// Messages whose push failed, by stream and sequence number. Only single calls record them.
    failed: Mutex<Vec<(u32, u64)>>,
}

impl Course {
    /// Stops the ticks.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(crate) fn note_failure(&self, stream: u32, sequence: u64) {
        self.failed.lock().expect("nobody panics with it").push((stream, sequence));
    }

    /// The messages whose push failed since the last call.
    pub(crate) fn take_failed(&self) -> Vec<(u32, u64)> {
        std::mem::take(&mut *self.failed.lock().expect("nobody panics with it"))
    }
}

/// The streams that a tick pushes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pattern {
    /// All.
    Every,
    /// One, in turn.
    Rotating {
        /// The first one; after the last it starts again.
        first: usize,
    },
}

impl Plan {
    /// A plan of single messages of `size` bytes to every stream with these `members`, one tick after the other for a
    /// second.
    pub(crate) fn new(operation: i32, size: usize, members: Vec<u64>) -> Self {
        Self {
            run: run_id(),
            operation,
            size,
            batch: 1,
            members,
            pattern: Pattern::Every,
            interval_ns: None,
            duration_ns: SECOND_NS,
            window: 1,
            unanswered_max: None,
            course: Arc::default(),
        }
    }

    /// The time between ticks at `rate` a second; `None` for 0, which is flat out.
    pub(crate) fn interval_of(rate: f64) -> Option<u64> {
        (rate > 0.0).then(|| ((SECOND_NS as f64 / rate) as u64).max(1))
    }

    /// The number of deliveries that the whole plan leads to; `None` when flat out.
    pub(crate) fn expected(&self) -> Option<u64> {
        let ticks = self.duration_ns.div_ceil(self.interval_ns?);
        let members: u64 = self.members.iter().sum();
        let every = ticks * members * self.batch;
        Some(match self.pattern {
            Pattern::Every => every,
            Pattern::Rotating { .. } => every / self.members.len() as u64,
        })
    }
}

/// A number for [`Plan::run`].
pub(crate) fn run_id() -> u32 {
    // Low bits of the time in microseconds: turns are seconds apart.
    (now_ns() / 1000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_computes_its_expected_deliveries() {
        let interval_ns = Plan::interval_of(10.0);
        let plan = Plan { batch: 2, interval_ns, ..Plan::new(1000, 64, vec![3, 1]) };
        assert_eq!(plan.expected(), Some(80));
        let rotating = Pattern::Rotating { first: 0 };
        assert_eq!(Plan { pattern: rotating, ..plan.clone() }.expected(), Some(40));
        assert_eq!(Plan { interval_ns: Plan::interval_of(0.0), ..plan }.expected(), None);
    }
}
