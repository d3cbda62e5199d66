//! `comet.toml`, the environment and the flags that override it, and the checked [`Config`] made from them.
//!
//! A key is declared once, in [`SECTIONS`]. [`load`] reads every layer (the file, then the environment, then each
//! `--set`, then `--cores` and `--control-cores`; a later one overrides an earlier one) and checks every value. It
//! returns either a `Config` that can be used as it is, or all the [`Mistakes`] at once.
//!
//! **Invariant:** nothing outside this crate sees an unchecked value, and nothing in it opens a file: the caller reads
//! `comet.toml`, the environment and secrets. Its only request to the system is the address of a name in a `bind`.

mod changes;
mod choices;
mod cpus;
mod declare;
mod environment;
mod fit;
mod keys;
mod kinds;
mod layers;
mod mistakes;
mod network;
mod reader;
mod secrets;
mod source;
mod units;

pub use changes::Change;
pub use choices::{
    Algorithm, HistoryStore, LogFormat, LogLevel, NatsRooms, SessionStore, SlowConsumer, Steering,
    TlsVersion, TokenExpiry, TokenKind, UnknownCode, Word,
};
pub use cpus::Machine;
pub use declare::{Key, Section, TakesEffect};
pub use keys::{
    ApiTls, Bucket, Coalesce, Config, History, Limits, Log, Logic, LogicServer, Monitor, Nats,
    Protocol, Push, SECTIONS, Server, Tcp, Tls, Token, WebSocket, WhiteList,
};
pub use kinds::coalesce::CoalesceRule;
pub use kinds::history::{HISTORY_AGE_MAX, HistoryRule};
pub use kinds::presence::PresenceRule;
pub use mistakes::Mistakes;
pub use network::Network;
pub use source::Source;

use reader::Reader;
use source::Process;

/// Reads and checks a configuration for `machine`.
///
/// Names in `bind` and similar keys are resolved here, which may query a name server and wait for it.
///
/// # Errors
/// Every mistake, in the order of the layers and of the lines.
pub fn load(source: &Source<'_>, machine: &Machine) -> Result<Config, Mistakes> {
    load_as(Process::Comet, source, machine)
}

/// As [`load`], for `comet logic`, which may read the file of comets on other hosts. Lists of CPUs are neither checked
/// nor adopted. Names in the addresses that comets listen on are not resolved.
///
/// # Errors
/// As for [`load`].
pub fn load_for_logic(source: &Source<'_>, machine: &Machine) -> Result<Config, Mistakes> {
    load_as(Process::Logic, source, machine)
}

fn load_as(process: Process, source: &Source<'_>, machine: &Machine) -> Result<Config, Mistakes> {
    let (written, report) = layers::read(source);
    let mut reader = Reader::new(written, report, machine, process);
    let mut config = Config::read(&mut reader);
    fit::complete(&mut config, machine);
    let Reader { mut report, bound, .. } = reader;
    fit::bound_twice(&mut report, bound, process);
    fit::fits_together(&mut report, &config, process);
    report.conclude(config)
}

impl Config {
    /// The configuration on `machine` when nothing is configured: the values of `comet.toml`.
    ///
    /// # Panics
    /// Never: a test reads the defaults.
    #[must_use]
    pub fn defaults(machine: &Machine) -> Self {
        load(&Source::default(), machine).expect("defaults are good")
    }
}
