//! The fake mesh: a bounded inbox per shard and class. Messages are delayed, and overtake each other unless they are of
//! one class and from the same sender.

use std::collections::VecDeque;

use comet_core::{Message, MessageClass, Millis, ShardId};

use crate::activity;
use crate::rng::Rng;

pub(crate) struct Mesh {
    /// By receiver, by class, then by sender. Control comes after the last shard.
    inboxes: Vec<[Vec<Lane>; 2]>,
    /// By receiver and class: the number of control's messages since it last notified the receiver.
    unannounced: Vec<[usize; 2]>,
    capacity: usize,
    delay_ms_max: u64,
}

type Lane = VecDeque<(Millis, Message)>;

impl Mesh {
    pub(crate) fn new(shards: u16, capacity: usize, delay_ms_max: u64) -> Self {
        let senders = usize::from(shards) + 1;
        let lanes = || (0..senders).map(|_| Lane::new()).collect();
        let inboxes = (0..shards).map(|_| [lanes(), lanes()]).collect();
        let unannounced = vec![[0, 0]; usize::from(shards)];
        Self { inboxes, unannounced, capacity, delay_ms_max }
    }

    /// Sends `message`. `sender` is `None` for control, whose messages wake no shard before [`Mesh::notify`].
    ///
    /// # Errors
    /// Returns the message if the inbox is full.
    pub(crate) fn send(
        &mut self,
        (rng, now): (&mut Rng, Millis),
        sender: Option<ShardId>,
        to: ShardId,
        message: Message,
    ) -> Result<(), Box<Message>> {
        let class = message.class() as usize;
        let inbox = &mut self.inboxes[usize::from(to.0)][class];
        if inbox.iter().map(VecDeque::len).sum::<usize>() >= self.capacity {
            return Err(Box::new(message));
        }
        let due = now.after(rng.between(0, self.delay_ms_max));
        let lane = sender.map_or(inbox.len() - 1, |shard| usize::from(shard.0));
        inbox[lane].push_back((due, message));
        self.unannounced[usize::from(to.0)][class] += usize::from(sender.is_none());
        Ok(())
    }

    /// Control wakes `shard` for all messages sent so far.
    pub(crate) fn notify(&mut self, shard: ShardId) {
        self.unannounced[usize::from(shard.0)] = [0, 0];
    }

    /// A message of `class` for `shard` that has arrived: the oldest of any one sender. A shard that is awake also
    /// finds messages that it was not woken for.
    pub(crate) fn take(
        &mut self,
        rng: &mut Rng,
        now: Millis,
        shard: ShardId,
        class: MessageClass,
    ) -> Option<Message> {
        let inbox = &mut self.inboxes[usize::from(shard.0)][class as usize];
        let first = rng.below(inbox.len());
        let lane =
            (first..inbox.len()).chain(0..first).find(|&lane| has_arrived(&inbox[lane], now))?;
        let taken = inbox[lane].pop_front();
        let unannounced = &mut self.unannounced[usize::from(shard.0)][class as usize];
        *unannounced = inbox.last().map_or(0, VecDeque::len).min(*unannounced);
        taken.map(|(_, message)| message)
    }

    /// Whether `shard` is woken by a message that [`Mesh::take`] would return.
    pub(crate) fn has(&self, now: Millis, shard: ShardId) -> bool {
        let inboxes = &self.inboxes[usize::from(shard.0)];
        let unannounced = self.unannounced[usize::from(shard.0)];
        inboxes.iter().zip(unannounced).any(|(inbox, unannounced)| {
            let (control, shards) = inbox.split_last().expect("control is a sender");
            shards.iter().any(|lane| has_arrived(lane, now))
                || control.len() > unannounced && has_arrived(control, now)
        })
    }

    /// Whether no message is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.inboxes.iter().flatten().flatten().all(VecDeque::is_empty)
    }

    /// Whether no message except renewals is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        let mut messages = self.inboxes.iter().flatten().flatten().flatten();
        messages.all(|(_, message)| !activity::is_active_message(message))
    }
}

fn has_arrived(lane: &VecDeque<(Millis, Message)>, now: Millis) -> bool {
    lane.front().is_some_and(|(due, _)| *due <= now)
}
