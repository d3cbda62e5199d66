//! The push API: goim's gRPC service, comet's own with its stream of pushes, and goim's HTTP API with its lists of who
//! is online and of servers for clients.
//!
//! A request is read, checked against [`CallLimits`], passed to a [`PushBackend`], counted and answered. The backend of
//! a comet is its shards; that of `comet logic` is its comets. [`StreamBackend`] is for backends that can begin a push
//! without waiting, which `PushStream` requires.
//!
//! **Invariant:** nothing here knows where a push goes: it depends on neither comet-core nor comet-mesh.

mod access;
mod backend;
mod call_limits;
mod grpc;
mod http;
mod node;
mod node_admin;
mod node_service;
mod pace;
mod push_stream;
mod rooms;
mod trace_fields;

pub use backend::{
    Broadcast, ChangeTarget, Clients, FailedServer, KickNotice, KickTarget, MayHaveTaken,
    OfAllHosts, PushBackend, PushResult, RoomChange, RoomsPage, RoomsQuery, StreamBackend,
};
pub use call_limits::CallLimits;
pub use grpc::grpc_api;
pub use http::{
    admin_routes, broadcast_routes, call, http_api, kick_routes, node_routes, push_routes,
    room_routes,
};
pub use node::{Backoff, ClientEndpoint, Instance, NodeList};
pub use node_admin::NodeAdmin;
pub use node_service::with_node_service;
pub use pace::pace;
pub use rooms::fullest;
pub use trace_fields::trace_fields;
