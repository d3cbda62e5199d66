//! The running server: real cores, real sockets on loopback, ordinary and hostile peers.
#![allow(clippy::disallowed_methods, reason = "real sockets need real deadlines")]

mod coalesce;
mod control;
mod crowd;
mod exchange;
#[path = "../../../comet-control/tests/control/fake_logic.rs"]
mod fake_logic;
mod forbidden;
mod health;
mod hostile;
mod http_push;
mod listen_tls;
mod log_sink;
mod logic;
mod logic_process;
mod logic_rig;
mod logic_server;
mod logic_tokens;
mod memory;
mod monitor;
mod operations;
mod peer;
mod process;
mod profiles;
mod proxy;
mod pushes;
mod redis;
mod reload;
mod replaced;
mod signals;
mod slow;
mod structure;
mod support;
mod timeouts;
mod tls;
mod tokens;
mod whitelist;
