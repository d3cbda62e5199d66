//! The command line. What a scenario was asked to do goes into its result as it is.

mod crowd;
mod targets;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::{env, io};

use clap::{Args, Parser, Subcommand};
use comet_cpus::CpuList;
use serde::Serialize;

pub(crate) use self::crowd::{ChurnArgs, DayArgs, IdleArgs, ReadersArgs};
pub(crate) use self::targets::TargetsArgs;
use crate::message::{COMPACT_LEN, STAMP_LEN};
use crate::source::Sources;
use crate::yardstick::Mode;

/// The largest body that may be asked for, in bytes.
const SIZE_MAX: i64 = 1 << 20;

const WS_PATH: &str = "/sub";
const TOKEN: &str = r#"{"mid":%d,"key":"%k","room_id":"%r","platform":"bench","accepts":[1000]}"#;
const KEY: &str = "k%d";
const ROOM: &str = "live://%d";
const OPERATION: i32 = 1000;

/// Measures a push server from outside, next to the least any server could do.
#[derive(Parser, Debug)]
#[command(name = "comet-bench", version, about)]
#[command(args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// A storm of connections: rate, handshake latency, CPU and memory of each.
    Connect(ConnectArgs),
    /// Pushes to rooms: CPU of a delivery, as a ratio to bare loops.
    Fanout(FanoutArgs),
    /// Pushes by key: latency and CPU of a call, next to a bare ping-pong and a bare gRPC server.
    Latency(LatencyArgs),
    /// Connections that do nothing but send heartbeats: CPU, memory, round trips.
    Idle(IdleArgs),
    /// Connections that come, change their room and go, while pushes go to the rooms.
    Churn(ChurnArgs),
    /// Readers that are slow or stalled, and what the others notice of them.
    Readers(ReadersArgs),
    /// A day in phases: storms, pushes of all kinds, coming and going.
    Day(DayArgs),
    /// The bare loops and the ping-pong alone.
    Raw(RawArgs),
    /// The project's targets, each with what is measured: what `make bench` runs.
    Targets(TargetsArgs),
    /// Results side by side: a table, and a page with plots.
    Report(ReportArgs),
    /// Any of these as a TOML file says: `scenario = "fanout"`, and flags as keys.
    Run {
        file: PathBuf,
        /// Flags that take the place of what the file says.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<OsString>,
    },
    /// The process of a part of the connections.
    #[command(hide = true)]
    Worker,
    /// The process of a bare loop.
    #[command(hide = true)]
    Yardstick {
        #[arg(long)]
        mode: Mode,
        #[arg(long)]
        connections: usize,
    },
    /// Becomes another program that ends with this process's parent.
    #[command(hide = true)]
    Launch {
        #[arg(long)]
        cpus: CpuList,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Where things run and what is written about it.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct HostArgs {
    /// CPUs of the server's data cores, and of the bare loops: "0-3,6".
    #[arg(long, value_name = "CPUS", default_value_t = CpuList::allowed().first())]
    pub server_core: CpuList,
    /// CPUs of the server's control thread; those of --server-core unless given.
    #[arg(long, value_name = "CPUS")]
    pub control_cores: Option<CpuList>,
    /// CPUs of the bench itself.
    #[arg(long, value_name = "CPUS", default_value_t = CpuList::allowed().last())]
    pub bench_core: CpuList,
    /// Keeps the CPUs out of their idle states meanwhile, as root: waking one can cost more than what is measured.
    #[arg(long)]
    pub awake: bool,
    /// File of the result; bench/results/SCENARIO-TIME.json unless given.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The server under test: started by the bench, or running already.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct ServerArgs {
    /// The comet to start; the one beside comet-bench unless given.
    #[arg(long, value_name = "PROGRAM")]
    pub server: Option<PathBuf>,
    /// A setting for the comet that is started, as its --set takes it. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub server_set: Vec<String>,
    /// Drives the server that listens here, instead of starting one.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "server")]
    pub addr: Option<SocketAddr>,
    /// WebSocket address of the running server.
    #[arg(long, value_name = "ADDRESS", requires = "addr")]
    pub ws_addr: Option<SocketAddr>,
    /// Push API of the running server, host:port.
    #[arg(long, value_name = "ADDRESS", requires = "addr")]
    pub grpc: Option<String>,
    /// Address of the running comet's metrics, which tell what it lost after it had said it would deliver it.
    #[arg(long, value_name = "ADDRESS", requires = "addr")]
    pub stat: Option<SocketAddr>,
    /// Process id of the running server; without it there are no CPU and memory figures.
    #[arg(long, value_name = "PID", requires = "addr")]
    pub pid: Option<u32>,
    /// Connects over TLS, to a server that is started with a certificate made for it.
    #[arg(long, conflicts_with = "addr")]
    pub tls: bool,
    /// Path of the WebSocket endpoint.
    #[arg(long, value_name = "PATH", default_value = WS_PATH)]
    pub ws_path: String,
    /// Share of the connections that use WebSocket, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub ws_share: f64,
    /// Token of a connection: %d is its number, from 1; %k its key; %r its room's id.
    #[arg(long, value_name = "TEMPLATE", default_value = TOKEN)]
    pub token: String,
    /// Key of a connection, as pushes name it: %d is its number, from 1.
    #[arg(long, value_name = "TEMPLATE", default_value = KEY)]
    pub key: String,
    /// Id of a room: %d is its number, from 1.
    #[arg(long, value_name = "TEMPLATE", default_value = ROOM)]
    pub room: String,
    /// Operation of the pushed messages; the token must accept it.
    #[arg(long, value_name = "NUMBER", default_value_t = OPERATION)]
    pub operation: i32,
}

impl ServerArgs {
    /// The comet to start.
    ///
    /// # Errors
    ///
    /// The bench does not find its own executable.
    pub(crate) fn program(&self) -> io::Result<PathBuf> {
        match &self.server {
            Some(program) => Ok(program.clone()),
            None => Ok(env::current_exe()?.with_file_name("comet")),
        }
    }
}

/// What the arguments of every scenario tell a report.
pub(crate) trait Setting: Serialize {
    /// Where it runs.
    fn host(&self) -> &HostArgs;

    /// What it measures; none where it measures yardsticks alone.
    fn server(&self) -> Option<ServerArgs>;
}

/// [`Setting`] for scenarios that measure a server.
macro_rules! server_scenarios {
    ($($arguments:ty),+ $(,)?) => {$(
        impl Setting for $arguments {
            fn host(&self) -> &HostArgs {
                &self.host
            }

            fn server(&self) -> Option<ServerArgs> {
                Some(self.server.clone())
            }
        }
    )+};
}

server_scenarios!(ConnectArgs, FanoutArgs, LatencyArgs, IdleArgs, ChurnArgs, ReadersArgs, DayArgs);

/// How the connections are made.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct DialArgs {
    /// Connections.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// Handshakes under way at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub in_flight: u32,
    /// Processes that share the connections: where one ends at its limit of open files, or at its CPU.
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=256))]
    pub processes: u32,
    /// Addresses the connections come from, in turn: "10.0.0.5,10.0.0.8-10.0.0.11". On the loopback a new
    /// one is taken every 8,000 connections unless given.
    #[arg(long, value_name = "ADDRESSES")]
    pub source: Option<Sources>,
}

/// What is pushed to rooms, and how fast.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct LoadArgs {
    /// Bytes of each message's body. Below 28 it has no room for a time, and so there is no latency.
    #[arg(long, value_name = "BYTES", default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(COMPACT_LEN as i64..=SIZE_MAX))]
    pub size: u32,
    /// Ticks a second, each a push to every room; 0 is flat out.
    #[arg(long, value_name = "HERTZ", default_value_t = 10.0)]
    pub rate: f64,
    /// Length of each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub seconds: f64,
    /// Messages in one push; more than one go as a batch of frames (operation 9).
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// Ticks that may be under way when flat out.
    #[arg(long, value_name = "NUMBER", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub window: u32,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct ConnectArgs {
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dial: DialArgs,
    /// Rooms the connections divide into; 0 is none.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub rooms: u32,
    /// How long all connections idle, to measure what that costs.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub hold: f64,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct FanoutArgs {
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
    /// Pushes through one PushStream instead of a call each: those of one room need not wait for the answer
    /// before them.
    #[arg(long)]
    pub stream: bool,
    /// Takes no turns with the yardsticks.
    #[arg(long)]
    pub alone: bool,
}

#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct LatencyArgs {
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub dial: DialArgs,
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(STAMP_LEN as i64..=SIZE_MAX))]
    pub size: u32,
    /// Calls a second, each to the next keys; 0 is flat out.
    #[arg(long, value_name = "HERTZ", default_value_t = 1000.0)]
    pub rate: f64,
    /// Calls that may be under way when flat out.
    #[arg(long, value_name = "NUMBER", default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub window: u32,
    /// Keys that one call names.
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub keys_per_call: u32,
    /// Callers that take turns at each call's keys; each waits for the answer to its last call.
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub callers: u32,
    /// Pushes through one PushStream instead of a call each.
    #[arg(long, conflicts_with = "callers")]
    pub stream: bool,
    /// Length of each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub seconds: f64,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct RawArgs {
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub dial: DialArgs,
    #[command(flatten)]
    pub load: LoadArgs,
}

impl Setting for RawArgs {
    fn host(&self) -> &HostArgs {
        &self.host
    }

    fn server(&self) -> Option<ServerArgs> {
        None
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ReportArgs {
    /// Results; each is compared with the first of its scenario.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Folder of the page and the plots.
    #[arg(long, value_name = "FOLDER", default_value = "bench/results/report")]
    pub out: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_below_a_stamp_are_refused() {
        let parse =
            |scenario, size| Cli::try_parse_from(["comet-bench", scenario, "--size", size]).is_ok();
        assert!(!parse("raw", "9") && parse("raw", "10"));
        assert!(!parse("latency", "27") && parse("latency", "28"));
    }
}
