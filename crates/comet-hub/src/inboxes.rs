//! The hub's interface to the mesh.

use comet_core::{Message, ShardId};

/// The inboxes of the shards, as the hub uses them. Neither method waits.
pub trait Inboxes {
    /// Puts `message` into the inbox of `shard`, and leaves a sleeping shard asleep until
    /// [`Inboxes::notify`].
    ///
    /// # Errors
    /// If there is no space, or the shard is gone.
    fn post(&mut self, shard: ShardId, message: Message) -> Result<(), PostError>;

    /// Wakes `shard` if it sleeps, for all that was posted before.
    fn notify(&mut self, shard: ShardId);
}

/// Why an inbox did not take a message.
#[derive(Debug)]
pub enum PostError {
    /// It is full. The message is returned for another attempt.
    Full(Message),
    /// The shard has ended, and its inbox with it.
    Closed,
}
