//! A core is frozen in the middle of its work. It goes on as if nothing had been, or another core goes on with its connections.
#![allow(clippy::disallowed_methods, reason = "the test has sockets and a clock")]

mod plain;
mod rig;
mod tls;
mod tls_client;
