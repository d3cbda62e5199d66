//! `comet.toml`, the flags that overrule it, and the checked [`Config`] they make.
//!
//! [`load`] reads every layer (the file, then each `--set`, then `--cores` and `--control-cores`; a
//! later one overrules an earlier one), checks every value, and gives either a `Config` that can be
//! used as it is, or all the [`Mistakes`] at once.
//!
//! **Invariant:** nothing outside this crate sees an unchecked value, and nothing in it opens a file.
//! The one thing it asks the system is the address of a name in a `bind`.

mod changes;
mod check;
mod config;
mod cpus;
mod layers;
mod mistakes;
mod network;
mod raw;
mod secrets;
mod units;

use std::path::Path;

pub use changes::Change;
pub use config::{
    Algorithm, Bucket, Config, Limits, Log, LogLevel, Logic, LogicServer, Monitor, Protocol, Push,
    Server, SessionStore, SlowConsumer, Steering, Tcp, Tls, TlsVersion, Token, TokenKind,
    WebSocket, WhiteList,
};
pub use cpus::Machine;
pub use mistakes::Mistakes;
pub use network::Network;

/// Where a configuration comes from. An empty source gives the defaults.
#[derive(Clone, Copy, Default, Debug)]
pub struct Source<'a> {
    /// The file's name, for messages, and its text.
    pub file: Option<(&'a Path, &'a str)>,
    /// `--set`: each is `section.key=value`, the value in TOML.
    pub sets: &'a [String],
    /// `--cores`: overrules `server.cores`.
    pub cores: Option<&'a str>,
    /// `--control-cores`: overrules `server.control_cores`.
    pub control_cores: Option<&'a str>,
}

/// Reads and checks a configuration for `machine`.
///
/// Names in `bind` and the like are resolved here, which may ask a name server and wait for it.
///
/// # Errors
/// Every mistake that was found, in the order of the layers and of the lines.
pub fn load(source: &Source<'_>, machine: &Machine) -> Result<Config, Mistakes> {
    let (raw, report) = layers::read(source);
    check::check(raw, report, machine, Process::Comet)
}

/// The same for `comet logic`, which may read the file of comets on other hosts: CPUs are neither
/// checked nor taken over, and of names that comets listen on only the ports are.
///
/// # Errors
/// As for [`load`].
pub fn load_for_logic(source: &Source<'_>, machine: &Machine) -> Result<Config, Mistakes> {
    let (raw, report) = layers::read(source);
    check::check(raw, report, machine, Process::Logic)
}

/// Which process reads the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Process {
    Comet,
    Logic,
}
