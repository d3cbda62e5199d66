//! The edge between sockets and the shard: one io_uring ring per core, inside a glommio executor.
//!
//! A core is a thread that glommio places and runs. Its one task is the driver ([`Core::start`]):
//! it handles completions and messages, submits what the shard wants to send, and sleeps when
//! nothing is left to do. Connections are entries in an array, not tasks. Protocol layers may lie
//! between a socket and its connection: a PROXY header, and TLS.
//!
//! **Invariant:** nothing here chooses the receivers of a message or the time when a connection closes; and no `unsafe`
//! of the server is outside `ring.rs`, `buffers.rs`, `steer.rs`, `peer_name.rs` and `acks.rs`.
#![allow(clippy::disallowed_methods, reason = "this edge reads the clock for the shard")]

mod acks;
mod buffers;
mod certificates;
mod close_log;
mod commands;
mod core;
mod driver;
mod ids;
mod inherit;
mod layers;
mod listen;
mod peer_name;
mod probe;
mod ring;
mod settings;
mod sockets;
mod steer;
mod tls;

pub use self::core::{Core, CoreStartError, Pending};
pub use certificates::{Tls, TlsError, TlsOptions, TlsVersion};
pub use commands::{FrozenTurn, Offer, Survey};
pub use inherit::{InheritedListeners, Unsettled, inherit};
pub use listen::{Keepalive, ListenError, ListenOptions, bind, check_bind};
pub use probe::{ProbeError, fit_ring, locked_memory, probe, reserve_descriptors};
pub use settings::{Arrived, ArrivedSocket, CoreSettings, Listener, MeshEndpoints, ProxyFrom};
pub use tls::TLS_TRANSMITS_MAX;
#[cfg(any(test, feature = "fuzzing"))]
pub use tls::fuzzing::check as check_tls;
