//! Other hosts. They tell the results of callers' pushes there at once, late, or after the call was given up.

use std::collections::{BTreeMap, VecDeque};

use comet_core::{CallId, Message, Millis, OtherHostsTally, Push, ShardId, Tally};

use crate::rng::Rng;

/// The answers to come, by time.
#[derive(Default)]
pub(crate) struct Elsewhere {
    due: BTreeMap<Millis, VecDeque<(ShardId, Message)>>,
    /// The number of pushes that were answered.
    pub(crate) told: u64,
}

impl Elsewhere {
    /// A shard has begun a push of one of its callers, with the timeout `timeout_ms`.
    pub(crate) fn call(
        &mut self,
        (rng, now): (&mut Rng, Millis),
        timeout_ms: u32,
        (shard, call, push): (ShardId, CallId, &Push),
    ) {
        let timeout_ms = u64::from(timeout_ms);
        let waits_ms = rng.pick(&[0, 0, 3, 40, timeout_ms / 2, timeout_ms, timeout_ms + 20]);
        let (tally, held, unanswered) = (Tally::default(), 0, rng.below(3) as u32);
        let bytes = push.frame.message().len();
        let tally = Box::new(OtherHostsTally { tally, held, unanswered, bytes });
        let message = Message::OtherHostsTallied { call, tally };
        self.due.entry(now.after(waits_ms)).or_default().push_back((shard, message));
    }

    /// The next answer that is due.
    pub(crate) fn poll(&mut self, now: Millis) -> Option<(ShardId, Message)> {
        let mut first = self.due.first_entry().filter(|first| *first.key() <= now)?;
        let next = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        self.told += 1;
        next
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.due.is_empty()
    }
}
