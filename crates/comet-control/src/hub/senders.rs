//! The inboxes of the shards, as the hub posts to them.

use comet_core::{Message, MessageClass, ShardId};
use comet_hub::{Inboxes, PostError};
use comet_mesh::{Sender, TrySendError};

use crate::spans::Traces;

pub(super) struct Senders {
    by_shard: Vec<Sender<Message>>,
    /// `None`: no push is traced.
    pub(super) traces: Option<Traces>,
}

impl Senders {
    pub(super) fn new(by_shard: Vec<Sender<Message>>, traces: Option<Traces>) -> Self {
        Self { by_shard, traces }
    }

    pub(super) fn of(&self, shard: ShardId) -> &Sender<Message> {
        &self.by_shard[usize::from(shard.0)]
    }
}

impl Inboxes for Senders {
    fn post(&mut self, shard: ShardId, message: Message) -> Result<(), PostError> {
        let traced = self.traces.as_ref().and_then(|traces| traces.push_of(&message));
        let posted = match message.class() {
            MessageClass::Directory => self.of(shard).post_priority(message),
            MessageClass::Push => self.of(shard).post(message),
        };
        if posted.is_ok()
            && let (Some(traces), Some(call)) = (&mut self.traces, traced)
        {
            traces.posted(call, shard);
        }
        posted.map_err(|returned| match returned {
            TrySendError::Full(message) => PostError::Full(message),
            TrySendError::Closed(_) => PostError::Closed,
        })
    }

    fn notify(&mut self, shard: ShardId) {
        self.of(shard).notify();
    }
}
