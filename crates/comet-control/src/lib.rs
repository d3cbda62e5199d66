//! The control thread: one tokio runtime that speaks gRPC and HTTP to callers, and is one more peer on the
//! mesh of shards.
//!
//! [`Control`] puts the servers together: the push API of comet-push before the shards, pages with their
//! numbers at the stat addresses (`/healthz`, `/metrics`, `/stat` and `/buildinfo`), and the debug pages of
//! comet-ops with the white list. Each push becomes messages to shards; their reports are added up and
//! answered as its ledger. The trace log is written beside them.
//!
//! With [`LogicOptions`] it asks logic services (`goim.logic.Logic`) who clients are, and passes their
//! messages on.
//!
//! **Invariant:** no shard ever waits for this thread: it takes room in their inboxes as it finds it and
//! makes its own callers wait. And nothing here keeps a session: that is logic's matter, here or elsewhere.

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
mod logic;
mod members;
mod memory_ceiling;
mod metrics;
mod monitor;
mod node;
mod pages;
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
mod under_way;
mod vitals;
mod wake;
mod watchers;

pub use census::{Census, CensusTaker};
pub use cluster::ClusterOptions;
pub use cluster::STREAM_BYTES_MAX;
pub use comet_hub::CALLS_MAX;
pub use comet_hub::cluster::{ClusterHandOver, StreamPlace};
pub use comet_hub::logic::{NOTICES_MAX, UnknownCode};
pub use comet_push::{Bounds, Node};
pub use comet_serve::{Address, ApiTls, BearerToken, Lock};
pub use control::{Control, Options, TraceLogSwitch, descriptors};
pub use drain::{DrainPlan, Drained};
pub use hub::PacedMove;
pub use logic::LogicOptions;
pub use spans::{PushedNames, Reported, ShardSpan, TracedPush};
pub use start_error::StartError;
pub use wake::ControlWake;
