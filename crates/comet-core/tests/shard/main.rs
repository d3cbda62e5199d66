//! The shard from outside: bytes and messages in, bytes, tallies and reasons out.

mod deadlines;
mod goim_faults;
mod hostile;
mod pushes;
mod replies;
mod rig;
