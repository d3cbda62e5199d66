//! Bounded inboxes between threads, and the wake-up of a thread that sleeps.
//!
//! Every shard and the control thread has one [`Inbox`]; all others hold a [`Sender`] to it. No sender waits for space:
//! a full inbox returns the message, and the sender decides what happens to it. An inbox may have a second queue, for
//! messages that must not wait behind the others. A sender makes a system call only if the receiver has announced that
//! it sleeps.
//!
//! **Invariant:** this crate never looks into what it carries, and no send or receive blocks.

mod eventfd;
mod inbox;
mod pulse;
mod wake;

pub use eventfd::EventFd;
pub use inbox::{Inbox, Sender, TrySendError, inbox, priority_inbox};
pub use pulse::Pulse;
pub use wake::Wake;
