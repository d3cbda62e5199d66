//! The yardstick: the least a server can do. A bare loop that sends bytes it is handed to all its sockets, in
//! a process of its own, measured exactly as the server is.
//!
//! It speaks just enough of the protocol for the same receiver: it answers the upgrade and the
//! authentication. Everything else is taken out: no rooms, no filters, no queues, no gRPC.

mod admit;
mod feed;
mod grpc;
mod pingpong;
mod plain;
mod process;
mod ring;

pub(crate) use self::feed::{Feed, Mode};
pub(crate) use self::pingpong::ping_pong;
pub(crate) use self::process::serve;
