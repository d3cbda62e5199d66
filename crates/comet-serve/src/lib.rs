//! The base of every server of comet: listeners, a thread with a runtime of its own, gRPC and HTTP served until the
//! process stops, health, counts of calls, query strings, and channels to other servers.
//!
//! [`listen`] binds addresses, [`spawn`] starts the thread, and a [`Servers`] on it serves a [`GrpcApi`]
//! and HTTP routers. All of them follow one [`Phase`].
//!
//! **Invariant:** of the workspace's crates it depends only on comet-listen: nothing here knows a shard, a push or a
//! session.

mod accept;
mod access_control;
mod access_log;
mod active_time;
mod call_counts;
mod caller;
mod certificate_name;
mod channel;
mod connection_limit;
mod encoded_first;
mod gate;
mod grpc;
mod guarded;
mod handshake;
mod health;
mod http;
mod http2_stream;
mod listen;
mod lookup;
mod offload;
mod outgoing;
mod peer;
mod phase;
mod pieces;
mod query;
mod refusal;
mod request_body;
mod request_memory;
mod responses;
mod servers;
mod socket;
mod start;
mod start_error;
mod stream;
mod tls;
mod trace_parent;
mod watch;

pub use accept::{CONNECTION_WINDOW, HEAD_MAX};
pub use access_control::AccessControl;
pub use access_log::{AccessLog, AccessLogEntry, Quoted};
pub use call_counts::CallCounts;
pub use caller::Caller;
pub use channel::{
    GrpcChannel, NotGrpc, call_until_processed, cause, is_caller_refused, is_unprocessed,
    misses_token,
};
pub use comet_listen::{Address, Inherited, NamedSocket};
pub use encoded_first::EncodedFirst;
pub use gate::{
    ANSWER_BYTES_MAX, ANSWERS_MAX, DEBUG_CONNECTIONS, GRPC_CONNECTIONS, Gate, GateLimits,
    GateReading, Gates, HTTP_CONNECTIONS, PAGES_BYTES_MAX, STAT_CONNECTIONS,
    UNAUTHENTICATED_ANSWERS_MAX, UNAUTHENTICATED_BYTES_MAX, WATCHES_MAX, connections_max,
    request_bytes,
};
pub use grpc::GrpcApi;
pub use health::Health;
pub use http::{healthz, refusal};
pub use listen::{BoundListeners, Listener, listen, listen_or_inherit};
pub use offload::{drop_offloaded, offload, poll_offloaded};
pub use outgoing::Outgoing;
pub use peer::{BadAddress, BearerToken, Peer, is_tls, root_cause};
pub use phase::{Phase, advance, begin_upgrade, end_upgrade, leaving, stopped, undrain};
pub use query::Query;
pub use request_body::{Arrivals, Received};
pub use servers::Servers;
pub use start::spawn;
pub use start_error::StartError;
pub use tls::{ApiTls, TlsError, TlsFiles, TlsReload};
pub use trace_parent::{TraceParent, TracedRequest};
