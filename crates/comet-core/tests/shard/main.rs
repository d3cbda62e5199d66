//! The shard from outside: bytes and messages go in; bytes, tallies and close reasons come out.

mod backlog;
mod bounds;
mod callers;
mod corpus;
mod deadlines;
mod door;
mod drain;
mod goim_faults;
mod hostile;
mod idle_coalescing;
mod listings;
mod live_trace;
mod logic;
mod protocol_2;
mod pushes;
mod replies;
mod rfc6455;
mod rig;
mod rooms;
mod stalls;
mod text;
mod token_expiry;
mod token_renewal;
mod trace;
mod turns;
