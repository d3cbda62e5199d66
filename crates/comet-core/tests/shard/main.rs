//! The shard from outside: bytes and messages go in; bytes, tallies and close reasons come out.

mod bounds;
mod corpus;
mod deadlines;
mod drain;
mod goim_faults;
mod hostile;
mod idle_coalescing;
mod logic;
mod pushes;
mod replies;
mod rig;
mod stalls;
mod trace;
mod turns;
