//! The arguments of the scenarios whose connections do more than receive.

use clap::Args;
use serde::Serialize;

use super::{DialArgs, HostArgs, LoadArgs, SIZE_MAX, ServerArgs};
use crate::message::STAMP_LEN;
use crate::scenario::day::Phase;

#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dial: DialArgs,
    /// Rooms the connections divide into; 0 is none.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub rooms: u32,
    /// Time between two heartbeats of a connection; 0 is none.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub heartbeat: f64,
    /// Length of each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub seconds: f64,
    /// How often it is measured, each time with a server of its own.
    #[arg(long, value_name = "NUMBER", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    /// The connections that stay, and how they are made.
    #[command(flatten)]
    pub dial: DialArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Rooms the connections divide into.
    #[arg(long, value_name = "NUMBER", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Guests that arrive in a second, whether or not those before them are through.
    #[arg(long, value_name = "HERTZ", default_value_t = 200.0)]
    pub arrivals: f64,
    /// How long a guest stays, on average (exponentially distributed).
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub life: f64,
    /// Share of the guests that change their room halfway, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pub moves: f64,
}

#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct ReadersArgs {
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dial: DialArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Rooms the connections divide into.
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Share of the connections that read slowly, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub slow: f64,
    /// How much a slow one reads.
    #[arg(long, value_name = "BYTES/S", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub slow_rate: u32,
    /// Share of the connections that do not read at all, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub stalled: f64,
    /// Kernel receive buffer of the slow and the stalled.
    #[arg(long, value_name = "BYTES", default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..=(1 << 30)))]
    pub receive_buffer: u32,
}

#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct DayArgs {
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dial: DialArgs,
    /// Rooms the connections divide into, the second half as large as the first, the third a third of it.
    #[arg(long, value_name = "NUMBER", default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(STAMP_LEN as i64..=SIZE_MAX))]
    pub size: u32,
    /// Time between two heartbeats of a connection; 0 is none.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub heartbeat: f64,
    /// How long a guest stays, on average (exponentially distributed).
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub life: f64,
    /// A phase as an inline table of TOML, '{ name = "noon", room-rate = 50 }'; in a file `[[phase]]`. Can
    /// be repeated; without any there is a default day.
    #[arg(long, value_name = "TABLE")]
    pub phase: Vec<Phase>,
}
