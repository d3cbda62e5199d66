//! The control thread: one tokio runtime that speaks gRPC and HTTP to the outside, and is one more
//! peer on the mesh of shards.
//!
//! [`Control`] serves the push API over gRPC (`goim.comet.Comet` and `comet.v1.Push`) with health and
//! reflection, the same pushes over HTTP as goim's logic does (`/goim/push/…`), and at the stat
//! addresses `/healthz`, `/metrics`, `/stat` and `/buildinfo`. The debug addresses have CPU and heap
//! profiles and what an operator may change alive; the trace log is written beside them. Each call becomes messages to
//! shards; their reports are added up and answered as the call's ledger. [`caller`] is the other end of
//! the push API.
//!
//! With [`LogicOptions`] it asks logic services (`goim.logic.Logic`) who clients are and tells them what
//! they say.
//!
//! [`logic_server`] is the other process that this crate runs: `comet logic`.
//!
//! **Invariant:** no other crate of the server names tonic or axum, none but comet-router tokio, and no
//! shard ever waits for this thread: it takes room in their inboxes as it finds it and makes its own
//! callers wait.

#![allow(
    clippy::disallowed_methods,
    reason = "metrics, profiles and the trace log tell the time of day; calls wait in tokio's"
)]

mod calls;
mod control;
mod debug;
mod http;
mod hub;
mod lane;
mod logic;
mod metrics;
mod monitor;
mod pushes;
mod servers;
mod start_error;
mod stat;
mod status;
mod this_node;
mod trace_log;
mod wake;

pub use comet_push::Node;
pub use control::{Control, Drained, Goodbye, Options};
pub use logic::LogicOptions;
pub use start_error::StartError;
pub use wake::ControlWake;
