//! `comet logic`: the logic service of comets, those of goim too.
//!
//! It serves `goim.logic.Logic` over gRPC: who a client is, by an authenticator of comet-logic, and where its
//! session is, in a store of comet-router. In front of the comets it knows it serves the HTTP push API, and
//! beside that `/healthz` and `/metrics`.
//!
//! **Invariant:** nothing here knows a shard, the mesh or a client's socket: comets are reached by the same
//! gRPC calls as by any caller.

#![allow(
    clippy::disallowed_methods,
    reason = "the fan-out takes the time as an argument; its driver reads the clock"
)]

mod active_time;
mod backend;
mod comet;
mod comets;
mod health;
mod nodes;
mod room_sums;
mod server;
mod service;
mod sessions;
mod stat;
mod turnstile;
mod wanted;

pub use comet::CometOptions;
pub use comet_push::Node;
pub use comet_serve::{ApiTls, BadAddress, Lock, StartError};
pub use server::{LogicServer, Options};
pub use wanted::DiscoveredComets;
