//! Inboxes without a mesh, for tests.

use std::collections::VecDeque;

use comet_core::{Message, ShardId};

use crate::inboxes::{Inboxes, PostError};

pub(crate) struct FakeInboxes {
    /// By shard; `None` once it has ended.
    inboxes: Vec<Option<VecDeque<Message>>>,
    /// Messages of one class that an inbox holds.
    capacity: usize,
    notified: Vec<u32>,
}

impl FakeInboxes {
    pub(crate) fn new(shards: usize, capacity: usize) -> Self {
        let inboxes = (0..shards).map(|_| Some(VecDeque::new())).collect();
        Self { inboxes, capacity, notified: vec![0; shards] }
    }

    /// The shard ends.
    pub(crate) fn close(&mut self, shard: ShardId) {
        self.inboxes[usize::from(shard.0)] = None;
    }

    pub(crate) fn take(&mut self, shard: ShardId) -> Option<Message> {
        self.inboxes[usize::from(shard.0)].as_mut().and_then(VecDeque::pop_front)
    }

    /// Empties an inbox that holds nothing but [`Message::Rooms`]; their calls.
    pub(crate) fn take_calls(&mut self, shard: ShardId) -> Vec<u64> {
        let messages = std::iter::from_fn(|| self.take(shard));
        messages
            .map(|message| match message {
                Message::Rooms { call } => call.0,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// How often the shard was woken.
    pub(crate) fn notified(&self, shard: ShardId) -> u32 {
        self.notified[usize::from(shard.0)]
    }
}

impl Inboxes for FakeInboxes {
    fn post(&mut self, shard: ShardId, message: Message) -> Result<(), PostError> {
        match &mut self.inboxes[usize::from(shard.0)] {
            None => Err(PostError::Closed),
            Some(inbox) => {
                let of_class = inbox.iter().filter(|other| other.class() == message.class());
                if of_class.count() >= self.capacity {
                    return Err(PostError::Full(message));
                }
                inbox.push_back(message);
                Ok(())
            }
        }
    }

    fn notify(&mut self, shard: ShardId) {
        self.notified[usize::from(shard.0)] += 1;
    }
}
