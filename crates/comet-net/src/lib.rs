//! The edge between sockets and the shard: one io_uring ring per core, inside a glommio executor.
//!
//! A core is a thread that glommio places and runs. Its one task is the driver ([`Core::start`]): take
//! completions and messages, let the shard work, submit what it wants sent, sleep when nothing is
//! left. Connections are entries in an array, not tasks.
//!
//! **Invariant:** nothing here decides who gets a message or when a connection closes; and all
//! `unsafe` of the server is in `ring.rs` and `buffers.rs`.
#![allow(clippy::disallowed_methods, reason = "this edge reads the clock for the shard")]

mod buffers;
mod closings;
mod core;
mod driver;
mod listen;
mod probe;
mod ring;
mod sockets;

pub use self::core::{Core, CoreSettings, Listener, Ports, StartError};
pub use listen::{ListenError, ListenOptions, bind};
pub use probe::{ProbeError, fit_ring, probe};
