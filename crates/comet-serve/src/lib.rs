//! What every server of comet stands on: listeners, a thread with a runtime of its own, gRPC and HTTP
//! served until the process stops, health, counts of calls, and query strings.
//!
//! [`listen`] binds addresses, [`spawn`] starts the thread, and a [`Servers`] on it serves a [`GrpcApi`]
//! and HTTP routers. All of them follow one [`Phase`], which only moves forward.
//!
//! **Invariant:** no crate of the workspace is beneath it: nothing here knows a shard, a push or a
//! session.

mod call_counts;
mod caller;
mod grpc;
mod http;
mod listen;
mod peer;
mod phase;
mod query;
mod servers;
mod start;
mod start_error;

pub use call_counts::CallCounts;
pub use caller::Caller;
pub use grpc::GrpcApi;
pub use http::{healthz, refusal};
pub use listen::{Bound, exposed, listen};
pub use peer::{BadAddress, endpoint, root_cause};
pub use phase::{Phase, advance, stopped};
pub use query::Query;
pub use servers::Servers;
pub use start::spawn;
pub use start_error::StartError;
