//! The flags of each scenario.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::attack::Attack;
use super::groups::{
    DialArgs, HostArgs, LoadArgs, ServerArgs, SetupArgs, YardstickArgs, body, positive,
};
use super::phase::{DayFile, Phase};
use crate::message::STAMP_LEN;

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Pace")]
pub(crate) struct ConnectArgs {
    /// Rooms the connections divide into; 0 is none.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, help_heading = "Load")]
    pub rooms: u32,
    /// How long all connections idle, to measure what that costs, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub hold: f64,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = positive())]
    pub rounds: u32,
    #[command(flatten)]
    pub yardsticks: YardstickArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct FanoutArgs {
    /// Rooms the connections divide into.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = positive())]
    pub rooms: u32,
    /// Pushes through one PushStream instead of a call each: those of one room need not wait for the answer
    /// before them.
    #[arg(long)]
    pub stream: bool,
    /// Measures beside the server another one that coalesces pushes over such a window. Answers to its pushes wait for the
    /// window, so they need a stream.
    #[arg(long, value_name = "MILLISECONDS", requires = "stream", conflicts_with = "addr",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub coalesce: Option<u32>,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub yardsticks: YardstickArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

fn share_below_1(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "a share is above 0 and below 1".to_owned())
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct ResumeArgs {
    /// Pushes to each key, or to each room, while nobody is there.
    #[arg(long, value_name = "NUMBER", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub pushes: u32,
    /// Pushes that the server parks for a session; all unless given. The others have to be counted as dropped.
    #[arg(long, value_name = "NUMBER", conflicts_with = "rooms",
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub messages: Option<u32>,
    /// Rooms with a history into which the connections divide; 0: parked sessions of their keys instead.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub rooms: u32,
    /// Nobody is cut off. Full outboxes drop this share of what is pushed to the rooms, and the clients have to get it again.
    #[arg(long, value_name = "SHARE", requires = "rooms", value_parser = share_below_1)]
    pub drop: Option<f64>,
    /// The server asks a `comet logic`, and has to ask it once for each client that comes back.
    #[arg(long, conflicts_with_all = ["drop", "addr"], help_heading = "Server")]
    pub logic: bool,
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = body(STAMP_LEN))]
    pub size: u32,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = positive())]
    pub rounds: u32,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct RoomsArgs {
    /// Rooms of each connection, in the end.
    #[arg(long, value_name = "NUMBER", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(2..=1024))]
    pub each: u32,
    /// Rooms that the connections' further ones are of.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1024..))]
    pub rooms: u32,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct LatencyArgs {
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = body(STAMP_LEN))]
    pub size: u32,
    /// Keys that one call names.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = positive())]
    pub keys_per_call: u32,
    /// Callers that take turns at each call's keys; each waits for the answer to its last call.
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub callers: u32,
    /// Pushes through one PushStream instead of a call each.
    #[arg(long, conflicts_with = "callers")]
    pub stream: bool,
    /// Calls a second, each to the next keys; 0 is flat out.
    #[arg(long, value_name = "HERTZ", default_value_t = 1000.0, help_heading = "Pace")]
    pub rate: f64,
    /// Calls that may be under way when flat out.
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = positive(),
        help_heading = "Pace")]
    pub window: u32,
    /// Length of each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, help_heading = "Pace")]
    pub seconds: f64,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = positive(),
        help_heading = "Pace")]
    pub rounds: u32,
    #[command(flatten)]
    pub yardsticks: YardstickArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct ClusterArgs {
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = body(STAMP_LEN))]
    pub size: u32,
    /// Pushes a second whose latency is measured, and bare messages.
    #[arg(long, value_name = "HERTZ", default_value_t = 500.0, help_heading = "Pace")]
    pub rate: f64,
    /// Pushes a second to a room of two hosts in a flood.
    #[arg(long, value_name = "HERTZ", default_value_t = 20_000, help_heading = "Pace")]
    pub flood: u64,
    /// Length of each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, help_heading = "Pace")]
    pub seconds: f64,
    /// How often it is measured, each time with servers of its own.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = positive(),
        help_heading = "Pace")]
    pub rounds: u32,
    /// The NATS server to start; looked for in PATH where it has no folder.
    #[arg(long, value_name = "PROGRAM", default_value = "nats-server", help_heading = "Server")]
    pub nats: PathBuf,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub host: HostArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct RawArgs {
    #[command(flatten)]
    pub dial: DialArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub host: HostArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Pace")]
pub(crate) struct IdleArgs {
    /// Rooms the connections divide into; 0 is none.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, help_heading = "Load")]
    pub rooms: u32,
    /// Time between two heartbeats of a connection; 0 is none.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub heartbeat: f64,
    /// Length of each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub seconds: f64,
    /// How often it is measured, each time with a server of its own.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = positive())]
    pub rounds: u32,
    #[command(flatten)]
    pub yardsticks: YardstickArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct ChurnArgs {
    /// Rooms the connections divide into.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = positive())]
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
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct ReadersArgs {
    /// Rooms the connections divide into.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = positive())]
    pub rooms: u32,
    /// Share of the connections that read slowly, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub slow: f64,
    /// How much a slow one reads in a second.
    #[arg(long, value_name = "BYTES/S", default_value_t = 1000, value_parser = positive())]
    pub slow_rate: u32,
    /// Share of the connections that do not read at all, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub stalled: f64,
    /// Kernel receive buffer of the slow and the stalled.
    #[arg(long, value_name = "BYTES", default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..=(1 << 30)))]
    pub receive_buffer: u32,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct DayArgs {
    /// The day as a TOML file, a `[[phase]]` table for each phase; without it there is a default day.
    #[arg(value_name = "FILE", value_parser = DayFile::read, conflicts_with = "phase")]
    #[serde(skip)]
    file: Option<DayFile>,
    /// Rooms the connections divide into, the second half as large as the first, the third a third of it.
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = positive())]
    pub rooms: u32,
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = body(STAMP_LEN))]
    pub size: u32,
    /// Time between two heartbeats of a connection; 0 is none.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub heartbeat: f64,
    /// How long a guest stays, on average (exponentially distributed).
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub life: f64,
    /// A phase as an inline table of TOML, '{ name = "noon", room-rate = 50 }'. Can be repeated.
    #[arg(long, value_name = "TABLE")]
    pub phase: Vec<Phase>,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

impl DayArgs {
    /// The same arguments with the phases of the file, or of the default day, if none are given as flags.
    pub(crate) fn with_phases(mut self) -> Self {
        if let Some(file) = self.file.take() {
            self.phase = file.phase;
        } else if self.phase.is_empty() {
            self.phase = Phase::day(self.setup.dial.connections as usize);
        }
        self
    }
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct SoakArgs {
    /// How long it lasts, in minutes; the phase under way is ended properly.
    #[arg(long, value_name = "MINUTES", default_value_t = 1.0, help_heading = "Pace")]
    pub minutes: f64,
    /// Chooses the faults, their order and their details; another one each time unless given.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Rooms the connections divide into.
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = positive())]
    pub rooms: u32,
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = body(STAMP_LEN))]
    pub size: u32,
    /// Guests that arrive in a second.
    #[arg(long, value_name = "HERTZ", default_value_t = 50.0)]
    pub arrivals: f64,
    /// Growth of the heap, from the quiet after the first round of faults on, that is a fault.
    #[arg(long, value_name = "KIB", default_value_t = 2048)]
    pub heap_growth: u64,
    /// The same of resident memory, which the allocator gives back late.
    #[arg(long, value_name = "KIB", default_value_t = 32_768)]
    pub resident_growth: u64,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct OverloadArgs {
    /// Attacks, divided by commas; all unless given.
    #[arg(long, value_name = "ATTACKS", value_delimiter = ',')]
    pub only: Vec<Attack>,
    /// Connections that say nothing, of the attack by them.
    #[arg(long, value_name = "NUMBER", default_value_t = 5_000, value_parser = positive())]
    pub half_open: u32,
    /// Clients that do not read, of the attacks by them.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = positive())]
    pub stalled: u32,
    /// Pushes by key in a second, to one client after the other.
    #[arg(long, value_name = "HERTZ", default_value_t = 500.0, help_heading = "Pace")]
    pub rate: f64,
    /// Length of each quiet time and of each attack that is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, help_heading = "Pace")]
    pub seconds: f64,
    /// How often quiet and attack take turns.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = positive(),
        help_heading = "Pace")]
    pub rounds: u32,
    /// Fails where a latency is more than twice its quiet value, too.
    #[arg(long, help_heading = "Output")]
    pub strict: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

impl OverloadArgs {
    /// Whether an attack is to be made.
    pub(crate) fn asks(&self, attack: Attack) -> bool {
        self.only.is_empty() || self.only.contains(&attack)
    }
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
pub(crate) struct FairnessArgs {
    /// Members of the room that is pushed to twice a second.
    #[arg(long, value_name = "NUMBER", default_value_t = 12_000, value_parser = positive())]
    pub crowd: u32,
    /// Members of the smaller crowd beside it.
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = positive())]
    pub small_crowd: u32,
    /// Pushes by key in a second, and pushes to small rooms, to one after the other.
    #[arg(long, value_name = "HERTZ", default_value_t = 500.0, help_heading = "Pace")]
    pub rate: f64,
    /// Clients that connect in a second.
    #[arg(long, value_name = "HERTZ", default_value_t = 100.0, help_heading = "Pace")]
    pub arrivals: f64,
    /// Length of each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, help_heading = "Pace")]
    pub seconds: f64,
    /// How often quiet and crowd take turns.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = positive(),
        help_heading = "Pace")]
    pub rounds: u32,
    /// Fails where a p99 is more than 6 ms above its quiet value, too.
    #[arg(long, help_heading = "Output")]
    pub strict: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Load")]
#[command(mut_arg("connections", |flag| flag.default_value("15000")))]
#[command(mut_arg("ws_share", |flag| flag.default_value("0.5")))]
pub(crate) struct UpgradeArgs {
    /// Rooms the connections divide into.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = positive())]
    pub rooms: u32,
    /// Share of the connections inside TLS, of each transport, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    pub tls_share: f64,
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = body(STAMP_LEN))]
    pub size: u32,
    /// Pushes to each room in a second; the rooms take turns.
    #[arg(long, value_name = "HERTZ", default_value_t = 5.0, help_heading = "Pace")]
    pub rate: f64,
    /// Pushes by key in a second, to one connection after the other.
    #[arg(long, value_name = "HERTZ", default_value_t = 200.0, help_heading = "Pace")]
    pub key_rate: f64,
    /// Pushes to the rooms through a PushStream as fast as the server answers, whatever --rate is; nobody visits then.
    #[arg(long, help_heading = "Pace")]
    pub flat_out: bool,
    /// Share of the connections that read nothing until the last upgrade is over, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.02)]
    pub stalled: f64,
    /// Messages of clients to logic in a second, of one client after the other.
    #[arg(long, value_name = "HERTZ", default_value_t = 500.0, help_heading = "Pace")]
    pub talk: f64,
    /// Clients that enter a further room in a second, to leave it after three (protocol 2).
    #[arg(long, value_name = "HERTZ", default_value_t = 50.0, help_heading = "Pace")]
    pub visits: f64,
    /// Upgrades, one after the other.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, help_heading = "Pace",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub upgrades: u32,
    /// How long the server is pushed to between two upgrades.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, help_heading = "Pace")]
    pub rest: f64,
    #[command(flatten)]
    #[serde(flatten)]
    pub setup: SetupArgs,
}

#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Server")]
pub(crate) struct TargetsArgs {
    /// The comet to start; the one beside comet-bench unless given.
    #[arg(long, value_name = "PROGRAM")]
    pub server: Option<PathBuf>,
    /// A setting for every comet that is started, as its --set takes it. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub server_set: Vec<String>,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = positive(),
        help_heading = "Pace")]
    pub rounds: u32,
    /// Measures these lines of the table only: "1,8,9".
    #[arg(long, value_name = "LINES", value_delimiter = ',',
        value_parser = clap::value_parser!(u8).range(1..=16), help_heading = "Load")]
    pub only: Vec<u8>,
    /// Fails where something is not reached, as where it cannot be measured.
    #[arg(long, help_heading = "Output")]
    pub strict: bool,
    #[command(flatten)]
    pub host: HostArgs,
}

impl TargetsArgs {
    /// Whether a line of the table is to be measured.
    pub(crate) fn asks(&self, line: u8) -> bool {
        self.only.is_empty() || self.only.contains(&line)
    }

    /// The arguments for the server to start; those for clients keep their defaults.
    pub(crate) fn server(&self) -> ServerArgs {
        let (server, server_set) = (self.server.clone(), self.server_set.clone());
        ServerArgs { server, server_set, ..ServerArgs::defaults() }
    }
}
