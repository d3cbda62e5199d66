//! The fake mesh: a bounded inbox per shard. Messages take their time, and overtake each other unless
//! they come from the same sender.

use std::collections::VecDeque;

use comet_core::{Message, Millis, ShardId};

use crate::rng::Rng;

pub(crate) struct Mesh {
    /// By receiver, then by sender; control sends from behind the last shard.
    lanes: Vec<Vec<VecDeque<(Millis, Message)>>>,
    capacity: usize,
    delay_ms_max: u64,
}

impl Mesh {
    pub(crate) fn new(shards: u16, capacity: usize, delay_ms_max: u64) -> Self {
        let senders = usize::from(shards) + 1;
        let lanes = (0..shards).map(|_| (0..senders).map(|_| VecDeque::new()).collect());
        Self { lanes: lanes.collect(), capacity, delay_ms_max }
    }

    /// Puts `message` on its way; `sender` is `None` for control.
    ///
    /// # Errors
    /// Gives it back if the inbox is full.
    pub(crate) fn send(
        &mut self,
        (rng, now): (&mut Rng, Millis),
        sender: Option<ShardId>,
        to: ShardId,
        message: Message,
    ) -> Result<(), Box<Message>> {
        if self.depth(to) >= self.capacity {
            return Err(Box::new(message));
        }
        let due = now.after(rng.between(0, self.delay_ms_max));
        let inbox = &mut self.lanes[usize::from(to.0)];
        let lane = sender.map_or(inbox.len() - 1, |shard| usize::from(shard.0));
        inbox[lane].push_back((due, message));
        Ok(())
    }

    /// A message for `shard` that has arrived: the oldest of any one sender.
    pub(crate) fn take(&mut self, rng: &mut Rng, now: Millis, shard: ShardId) -> Option<Message> {
        let inbox = &mut self.lanes[usize::from(shard.0)];
        let first = rng.below(inbox.len());
        let lane =
            (first..inbox.len()).chain(0..first).find(|&lane| has_arrived(&inbox[lane], now))?;
        inbox[lane].pop_front().map(|(_, message)| message)
    }

    /// Whether [`Mesh::take`] would give something.
    pub(crate) fn has(&self, now: Millis, shard: ShardId) -> bool {
        self.lanes[usize::from(shard.0)].iter().any(|lane| has_arrived(lane, now))
    }

    /// Nothing is on its way, but for renewals, which go on for as long as clients send heartbeats.
    pub(crate) fn is_idle(&self) -> bool {
        let mut messages = self.lanes.iter().flatten().flatten();
        messages.all(|(_, message)| matches!(message, Message::Renew { .. }))
    }

    fn depth(&self, shard: ShardId) -> usize {
        self.lanes[usize::from(shard.0)].iter().map(VecDeque::len).sum()
    }
}

fn has_arrived(lane: &VecDeque<(Millis, Message)>, now: Millis) -> bool {
    lane.front().is_some_and(|(due, _)| *due <= now)
}
