//! The running server: real cores, real sockets on loopback, ordinary and hostile peers.
#![allow(clippy::disallowed_methods, reason = "real sockets need real deadlines")]
#![allow(clippy::print_stderr, reason = "the harness shows it")]

mod alerts;
mod backlog;
mod coalesce;
mod control;
mod crowd;
mod descriptors;
mod door;
mod exchange;
#[path = "../../../comet-control/tests/control/fake_logic.rs"]
mod fake_logic;
mod forbidden;
mod h2;
mod health;
mod helpers;
mod hostile;
mod http_push;
mod jwks;
mod listen_tls;
mod locks;
mod log_sink;
mod logic;
mod logic_peers;
mod logic_process;
mod logic_rig;
mod logic_server;
mod logic_tokens;
mod memory;
mod monitor;
mod operations;
mod paced;
mod peer;
mod printing;
mod process;
mod profiles;
mod proxy;
mod pushes;
mod redis;
mod reload;
mod replaced;
mod rust_log;
mod signals;
mod slow;
mod stopped;
mod structure;
mod support;
mod timeouts;
mod tls;
mod token_expiry;
mod token_keys;
mod tokens;
mod whitelist;
