//! The running server: real cores, real sockets on loopback, ordinary and hostile peers.
#![allow(clippy::disallowed_methods, reason = "real sockets need real deadlines")]

mod coalesce;
mod control;
mod crowd;
mod descriptors;
mod exchange;
#[path = "../../../comet-control/tests/control/fake_logic.rs"]
mod fake_logic;
mod h2;
mod hostile;
mod http_push;
mod listen_tls;
mod locks;
mod logic;
mod logic_process;
mod logic_rig;
mod logic_server;
mod logic_tokens;
mod monitor;
mod operations;
mod paced;
mod peer;
mod process;
mod profiles;
mod proxy;
mod pushes;
mod redis;
mod reload;
mod replaced;
mod slow;
mod structure;
mod support;
mod timeouts;
mod tls;
mod tokens;
mod whitelist;
