//! The edge between sockets and the shard: one io_uring ring per core, inside a glommio executor.
//!
//! A core is a thread that glommio places and runs. Its one task is the driver ([`Core::start`]): take
//! completions and messages, let the shard work, submit what it wants sent, sleep when nothing is
//! left. Connections are entries in an array, not tasks. Between a socket and its connection there may
//! be a front: a PROXY header to be read first, and TLS.
//!
//! **Invariant:** nothing here decides who gets a message or when a connection closes; and all
//! `unsafe` of the server is in `ring.rs`, `buffers.rs` and `steer.rs`.
#![allow(clippy::disallowed_methods, reason = "this edge reads the clock for the shard")]

mod buffers;
mod certificates;
mod close_log;
mod core;
mod driver;
mod layers;
mod listen;
mod probe;
mod ring;
mod sockets;
mod steer;
mod tls;

pub use self::core::{Core, CoreSettings, Listener, Ports, StartError};
pub use certificates::{Tls, TlsError, TlsOptions, TlsVersion};
pub use layers::ProxyFrom;
pub use listen::{Attempt, Keepalive, ListenError, ListenOptions, bind};
pub use probe::{ProbeError, fit_ring, probe, reserve_descriptors};
