//! `comet logic`: the logic service of comets, including those of goim.
//!
//! It serves `goim.logic.Logic` over gRPC: it finds the identity of a client by an authenticator of comet-logic, and
//! stores its session in a store of comet-router. It serves the HTTP push API for its comets, and `/healthz` and
//! `/metrics`.
//!
//! **Invariant:** nothing here knows a shard, the mesh or a client's socket: comets are called over gRPC, as any caller
//! does.

#![allow(
    clippy::disallowed_methods,
    reason = "the fan-out takes the time as an argument; its driver reads the clock"
)]

mod active_time;
mod backend;
mod comet;
mod comets;
mod desired_comets;
mod health;
mod nodes;
mod room_sums;
mod server;
mod service;
mod sessions;
mod stat;
mod turnstile;

pub use comet::CometOptions;
pub use comet_push::ClientEndpoint;
pub use comet_serve::{AccessControl, ApiTls, BadAddress, StartError};
pub use desired_comets::DiscoveredComets;
pub use server::{LogicServer, Options};
