//! The contract of comet's gRPC services: the files in `proto/`, and the messages, services and clients
//! that the build script makes of them.
//!
//! `goim.comet.Comet` and `comet.v1.Push` take pushes; `comet.v1.Inspect` tells what a server holds; `goim.logic.Logic` answers who a client is. Servers
//! and callers, the benchmark among them, compile against the same code.
//!
//! **Invariant:** no crate of the workspace is beneath it, and it opens no connection.

mod ledger;

#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)] // Generated.
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

pub use generated::{comet, goim};
pub use ledger::KNOWN_SO_FAR;

/// Every file of `proto/` as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
