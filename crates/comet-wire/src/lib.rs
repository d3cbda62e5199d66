//! The contract of comet's gRPC services: the files in `proto/`, and the messages, services and clients
//! that the build script makes of them.
//!
//! `goim.comet.Comet` and `comet.v1.Push` take pushes; `comet.v1.Inspect` shows the state of a server;
//! `goim.logic.Logic` finds the identity of a client. Servers and callers, the benchmark among them, compile against
//! the same code.
//!
//! **Invariant:** it depends on no other crate of the workspace, and it opens no connection.

mod ledger;

#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)] // Generated.
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

pub use generated::{comet, goim};
pub use ledger::KNOWN_SO_FAR;

/// Every file of `proto/` as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
