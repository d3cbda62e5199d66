//! What the hub needs of the mesh.

use comet_core::{Message, ShardId};

/// The inboxes of the shards, as the hub uses them. Neither method waits.
pub trait Inboxes {
    /// Puts `message` into the inbox of `shard`, and leaves a sleeping shard asleep until
    /// [`Inboxes::notify`].
    ///
    /// # Errors
    /// If there is no room, or no shard any more.
    fn post(&mut self, shard: ShardId, message: Message) -> Result<(), Refused>;

    /// Wakes `shard` if it sleeps, for all that was posted before.
    fn notify(&mut self, shard: ShardId);
}

/// Why an inbox did not take a message.
#[derive(Debug)]
pub enum Refused {
    /// It is full. The message comes back, for another attempt.
    Full(Message),
    /// The shard took it down: the shard has ended.
    Closed,
}
