//! comet, put together: cores, mesh and control as one [`App`].
//!
//! **Invariant:** no crate depends on this one but its own tests. It decides only where the parts run, and in which
//! order they start and end.
#![allow(clippy::disallowed_methods, reason = "the process's clock starts here")]

pub mod api_tls;
mod app;
pub mod args;
pub mod blocking_client;
mod comet_watch;
mod config_files;
pub mod ctl;
mod discovery;
mod http_client;
mod inputs;
mod jwks;
pub mod listen_command;
mod listeners;
mod log_filter;
mod log_output;
pub mod logic;
pub mod manual;
mod memory;
mod monitor;
mod nats;
mod options;
pub mod output;
mod pid_file;
pub mod preflight;
pub mod pusher;
mod reload;
pub mod run;
mod service_status;
mod shutdown;
mod span_export;
mod start;
mod start_error;
pub mod stat;
mod terminal;
mod token_keys;
pub mod top;
pub mod upgrade;
mod upgrade_command;

pub use app::{App, Ended, machine};
pub use memory::worst_case;
pub use reload::Reloaded;
pub use start_error::StartError;
pub use upgrade_command::upgrade;

/// comet-ops serves its heap profiles; glibc's allocator has none. `.cargo/config.toml` has its settings.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
