//! The running server: real cores, real sockets on loopback, ordinary and hostile peers.
#![allow(clippy::disallowed_methods, reason = "real sockets need real deadlines")]

mod control;
mod crowd;
#[path = "../../../comet-control/tests/control/fake_logic.rs"]
mod fake_logic;
mod hostile;
mod http_push;
mod logic;
mod monitor;
mod operations;
mod peer;
mod process;
mod proxy;
mod pushes;
mod reload;
mod replaced;
mod slow;
mod support;
mod timeouts;
mod tls;
mod tokens;
mod whitelist;
