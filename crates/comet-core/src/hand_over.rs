//! The hand-over of all shards of a process to another one, perhaps with another number of shards.
//!
//! The former process has its shards begin ([`Shard::begin_hand_over`](crate::Shard::begin_hand_over)), runs turns until
//! each [may be handed over](Obstacles::may_hand_over) and the mesh is empty, and takes their state
//! ([`Shard::hand_over`](crate::Shard::hand_over)), which changes nothing: if the new process fails, the shards go on. The
//! new process calls [`distribute`] with all of them, and each of its shards takes its part over
//! ([`Shard::take_over`](crate::Shard::take_over)).
//!
//! What can be told from the connections is not handed over, but made anew: owners of keys, sessions of users, members of
//! rooms and their counts. So homes agree with the connections whatever the number of shards.

mod accepts;
mod arrival;
mod counters;
mod distribute;
mod homes;
mod obstacles;
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
