//! The shard from outside: bytes and messages in, bytes, tallies and reasons out.

mod bounds;
mod calm;
mod deadlines;
mod drain;
mod goim_faults;
mod hostile;
mod logic;
mod pushes;
mod replies;
mod rig;
mod trace;
