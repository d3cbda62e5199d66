//! A core is frozen in the middle of its work. It thaws and goes on as before, or another core takes over its connections.
#![allow(clippy::disallowed_methods, reason = "the test has sockets and a clock")]

mod plain;
mod rig;
mod tls;
mod tls_client;
