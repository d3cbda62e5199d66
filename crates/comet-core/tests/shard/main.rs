//! The shard from outside: bytes and messages in, bytes, tallies and reasons out.

mod bounds;
mod deadlines;
mod drain;
mod goim_faults;
mod hostile;
mod idle_coalescing;
mod logic;
mod pushes;
mod replies;
mod rig;
mod trace;
