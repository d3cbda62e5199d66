//! The hand-over of all shards of a process to another one, perhaps with another number of shards.
//!
//! The former process prepares its shards ([`Shard::begin_hand_over`](crate::Shard::begin_hand_over)) and runs turns
//! until each [may be handed over](Obstacles::may_hand_over) and the mesh is empty. Then it takes their state
//! ([`Shard::hand_over`](crate::Shard::hand_over)). That changes nothing: if the new process fails, the shards
//! continue. The new process calls [`distribute()`] with all of them, and each of its shards takes over its part
//! ([`Shard::take_over`](crate::Shard::take_over)).
//!
//! What can be derived from the connections is not handed over: owners of keys, sessions of users, members of rooms and
//! their counts. So homes agree with the connections for any number of shards.

mod arrival;
mod counters;
mod distribute;
mod homes;
mod obstacles;
mod operation_filter;
mod paced;
mod parked;
mod rooms;

pub use arrival::TakeOver;
pub use distribute::distribute;
pub use obstacles::{LeftBehind, Obstacles};

pub(crate) use arrival::{ArrivedConn, ArrivedHome, ArrivedRoom, ArrivedUser, HomeRoomPart};
pub(crate) use counters::to_message as counters_to;
pub(crate) use paced::{ArrivedPaced, append_range, to_message as paced_to};
pub(crate) use parked::{ArrivedKept, ArrivedSession, to_message as parked_to};
