//! The flags of `books`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use serde::Serialize;

use super::groups::{HostArgs, ServerArgs, body, positive};

/// What is done to the hosts meanwhile.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// Nothing, if it is the only one.
    None,
    /// A client reads nothing for some seconds.
    Stall,
    /// Host c is killed.
    Kill,
    /// The NATS server is killed, and comes back with its files.
    Nats,
    /// Host c is started again, if it was killed.
    Return,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct BooksArgs {
    /// Pushes in all.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000,
        value_parser = value_parser!(u32).range(100..=10_000_000))]
    pub pushes: u32,
    /// Decides where each push goes; random unless given.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Clients of each host.
    #[arg(long, value_name = "NUMBER", default_value_t = 3,
        value_parser = value_parser!(u32).range(1..=100))]
    pub clients: u32,
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = body(8))]
    pub size: u32,
    /// What is done, in this order.
    #[arg(
        long,
        value_name = "FAULTS",
        value_delimiter = ',',
        default_value = "stall,kill,nats,return"
    )]
    pub faults: Vec<Fault>,
    /// Time over which pushes are spread. The run takes longer by what callers have to wait for hosts.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, help_heading = "Pace")]
    pub seconds: f64,
    /// Callers, in turn of hosts a and b. Each makes one call after the other.
    #[arg(long, value_name = "NUMBER", default_value_t = 128, value_parser = positive(),
        help_heading = "Pace")]
    pub callers: u32,
    /// The NATS server to start; looked for in PATH where it has no folder.
    #[arg(long, value_name = "PROGRAM", default_value = "nats-server", help_heading = "Server")]
    pub nats: PathBuf,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub host: HostArgs,
}
