//! The sans-IO control thread: every decision it makes between the mesh and the services.
//!
//! Messages, reports and the time are inputs; messages to post, answers and the time of the next turn are outputs. The
//! tokio code around it holds the sockets, the locks and the clock, and the simulator runs the same state machines with
//! a fake mesh and a fake clock.
//!
//! **Invariant:** nothing here reads a clock, opens a socket, takes a lock, awaits or names a runtime.

mod callers;
mod calls;
pub mod cluster;
mod drain;
mod failing;
#[cfg(test)]
mod fake;
pub mod fanout;
mod hub;
mod inboxes;
mod lane;
pub mod logic;
mod paced;
mod queues;
mod shares;

pub use calls::{CALLER_CALLS_MAX, CALLS_MAX, CallError, CallResult, Ended, Outcome};
pub use comet_core::{ActiveClock, Millis};
pub use drain::{Drain, DrainOrder, DrainStage, ShardOrder};
pub use hub::{Hub, LATE_LOOK_MS, RETRY_MS};
pub use inboxes::{Inboxes, PostError};
pub use paced::{PacedBroadcast, PacedBroadcasts, PacedWhat};
pub use queues::CallerId;
pub use shares::{portions, shares};
