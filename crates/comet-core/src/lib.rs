//! The sans-IO shard: everything comet decides.
//!
//! A [`Shard`] owns the connections one core accepted and is home to its share of keys, users and
//! rooms. Bytes, completions, messages and the time come in through `handle_*`; what to send, whom to
//! tell and what to close come out through `poll_*`. The driver around it holds no policy, so the
//! simulator runs the same decisions with fake sockets and a fake clock.
//!
//! **Invariant:** nothing here reads a clock, opens a socket, takes a lock or spawns a task.

mod bucket;
mod calm;
mod chance;
mod conn;
mod departed;
mod home;
mod ids;
mod ledger;
pub mod limits;
mod message;
mod outbox;
mod room;
mod shard;
mod slab;
mod wheel;

pub use conn::Transport;
pub use ids::{CallId, ConnId, Millis, ShardId, home_of_key, home_of_room, home_of_user};
pub use ledger::{CloseReason, Counters, DropReason, Tally};
pub use limits::{Limits, SlowConsumer};
pub use message::{
    Accepts, AuthRequest, Denied, Identity, Message, Push, Report, TraceEvent, TraceKind,
};
pub use shard::{CloseHow, ClosedEvent, Hangup, LiveConn, Logic, Settings, Shard, Transmit};
