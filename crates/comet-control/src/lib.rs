//! The control thread: one tokio runtime that speaks gRPC and HTTP to callers, and is a further peer on the mesh of
//! shards.
//!
//! [`Control`] combines the servers: the push API of comet-push for the shards, pages with their numbers at the stat
//! addresses (`/healthz`, `/metrics`, `/stat` and `/buildinfo`), and the debug pages of comet-ops with the white list.
//! Each push becomes messages to shards; their reports are summed up and answered as its ledger. The trace log is
//! written here as well.
//!
//! With [`LogicOptions`] it asks logic services (`goim.logic.Logic`) for the identities of clients, and passes clients'
//! messages to them.
//!
//! **Invariant:** no shard ever waits for this thread: messages wait here until a shard's inbox has space, and so do
//! the callers. Nothing here stores a session: that is the task of logic.

#![allow(
    clippy::disallowed_methods,
    reason = "uptime counts from the start of the thread; calls wait in tokio's time"
)]

mod called;
mod census;
mod cluster;
mod connections;
mod control;
mod counts;
mod debug;
mod drain;
mod history;
mod hub;
mod inspect;
mod inspector;
mod live_trace;
mod liveness;
mod logic;
mod members;
mod memory_ceiling;
mod metrics;
mod monitor;
mod node;
mod pages;
mod pending_push;
mod pushes;
mod questions;
mod room_lists;
mod servers;
mod spans;
mod start_error;
mod stat;
mod status;
mod this_node;
mod top;
mod trace_log;
mod wake;
mod watchers;

pub use census::{Census, CensusTaker};
pub use cluster::ClusterOptions;
pub use cluster::STREAM_BYTES_MAX;
pub use comet_hub::CALLS_MAX;
pub use comet_hub::cluster::{ClusterHandOver, StreamPosition};
pub use comet_hub::logic::{NOTICES_MAX, UnknownCode};
pub use comet_push::{CallLimits, ClientEndpoint};
pub use comet_serve::{AccessControl, Address, ApiTls, BearerToken};
pub use control::{Control, Options, TraceLogSwitch, descriptors};
pub use drain::{DrainPlan, Drained};
pub use hub::PacedMove;
pub use logic::LogicOptions;
pub use spans::{PushedNames, Reported, ShardSpan, TracedPush};
pub use start_error::StartError;
pub use wake::ControlWake;
