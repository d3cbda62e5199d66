//! Groups of flags that several scenarios share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::{env, io};

use clap::builder::RangedI64ValueParser;
use clap::{Args, FromArgMatches, value_parser};
use serde::Serialize;

use crate::message::COMPACT_LEN;
use crate::source::Sources;
use comet_cpus::CpuList;

/// The largest size of a body, in bytes.
const SIZE_MAX: i64 = 1 << 20;

/// A parser of numbers from 1 on.
pub(super) fn positive() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..)
}

/// A parser of body sizes of at least `least` bytes.
pub(super) fn body(least: usize) -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(least as i64..=SIZE_MAX)
}

/// Where things run and what is written about it.
#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Host")]
pub(crate) struct HostArgs {
    /// CPUs of the server's data cores, and of the yardsticks: "0-3,6".
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
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
}

/// The server under test: started by the bench, or running already.
#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    /// The comet to start; the one beside comet-bench unless given.
    #[arg(long, value_name = "PROGRAM")]
    pub server: Option<PathBuf>,
    /// A setting for the comet that is started, as its --set takes it. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub server_set: Vec<String>,
    /// Measures the server that listens here, instead of starting one.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "server")]
    pub addr: Option<SocketAddr>,
    /// WebSocket address of the running server.
    #[arg(long, value_name = "ADDRESS", requires = "addr")]
    pub ws_addr: Option<SocketAddr>,
    /// Push API of the running server, host:port.
    #[arg(long, value_name = "ADDRESS", requires = "addr")]
    pub grpc: Option<String>,
    /// Pushes by push frames instead of gRPC, to a comet that is started.
    #[arg(long, conflicts_with = "addr")]
    pub frames: bool,
    /// Address of the running comet's metrics, which tell what it lost after it had said it would deliver it.
    #[arg(long, value_name = "ADDRESS", requires = "addr")]
    pub stat: Option<SocketAddr>,
    /// Process id of the running server; without it there are no CPU and memory figures.
    #[arg(long, value_name = "PROCESS", requires = "addr")]
    pub pid: Option<u32>,
    /// Connects over TLS, to a server that is started with a certificate made for it.
    #[arg(long, conflicts_with = "addr")]
    pub tls: bool,
    /// Path of the WebSocket endpoint.
    #[arg(long, value_name = "PATH", default_value = "/sub")]
    pub ws_path: String,
    /// Share of the connections that use WebSocket, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub ws_share: f64,
    /// Has WebSocket connections offer compression (permessage-deflate), which the comet that is started accepts.
    #[arg(long, conflicts_with = "tls")]
    pub deflate: bool,
    /// Token of a connection: %d is its number, from 1; %k its key; %r its room's id.
    #[arg(
        long,
        value_name = "TEMPLATE",
        default_value = r#"{"mid":%d,"key":"%k","room_id":"%r","platform":"bench","accepts":[1000]}"#
    )]
    pub token: String,
    /// Key of a connection, as pushes name it: %d is its number, from 1.
    #[arg(long, value_name = "TEMPLATE", default_value = "k%d")]
    pub key: String,
    /// Id of a room: %d is its number, from 1.
    #[arg(long, value_name = "TEMPLATE", default_value = "live://%d")]
    pub room: String,
    /// Operation of the pushed messages; the token must accept it.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub operation: i32,
}

impl ServerArgs {
    /// The arguments of an empty command line.
    pub(super) fn defaults() -> Self {
        let command = Self::augment_args(clap::Command::new("defaults"));
        let none = command.get_matches_from(["defaults"]);
        Self::from_arg_matches(&none).expect("no flag is required")
    }

    /// The comet to start.
    pub(crate) fn program(&self) -> io::Result<PathBuf> {
        match &self.server {
            Some(program) => Ok(program.clone()),
            None => Ok(env::current_exe()?.with_file_name("comet")),
        }
    }
}

/// Whether the server takes turns with the yardsticks.
#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Yardsticks")]
pub(crate) struct YardstickArgs {
    /// Takes turns with the yardsticks, on --server-core, also where the server runs already (--addr).
    #[arg(long)]
    pub yardsticks: bool,
    /// Takes no turns with the yardsticks.
    #[arg(long, conflicts_with = "yardsticks")]
    pub alone: bool,
}

impl YardstickArgs {
    /// Yardsticks are measured next to a server that the bench starts, and next to any other only if asked for.
    pub(crate) fn wanted(&self, setup: &SetupArgs) -> bool {
        !self.alone && (self.yardsticks || setup.server.addr.is_none())
    }
}

/// What every measurement of a server takes.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct SetupArgs {
    #[command(flatten)]
    pub dial: DialArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub host: HostArgs,
}

impl SetupArgs {
    /// The arguments for the host, and those for the server.
    pub(crate) fn sides(&self) -> (&HostArgs, Option<&ServerArgs>) {
        (&self.host, Some(&self.server))
    }
}

/// How the connections are made.
#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Connections")]
pub(crate) struct DialArgs {
    /// Connections; those that stay, where others come and go.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1000,
        value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// Handshakes under way at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = positive())]
    pub in_flight: u32,
    /// Processes that share the connections: where one ends at its limit of open files, or at its CPU.
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = value_parser!(u32).range(1..=256))]
    pub processes: u32,
    /// Addresses the connections come from, in turn: "10.0.0.5,10.0.0.8-10.0.0.11". On the loopback a new
    /// one is taken every 8,000 connections unless given.
    #[arg(long, value_name = "ADDRESSES")]
    pub source: Option<Sources>,
}

/// What is pushed to rooms, and how fast.
#[derive(Args, Clone, Debug, Serialize)]
#[command(next_help_heading = "Pace")]
pub(crate) struct LoadArgs {
    /// Bytes of each message's body. Below 28 it has no room for a time, and so there is no latency.
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = body(COMPACT_LEN),
        help_heading = "Load")]
    pub size: u32,
    /// Messages in one push; more than one go as a batch of frames (operation 9).
    #[arg(long, value_name = "NUMBER", default_value_t = 1,
        value_parser = value_parser!(u32).range(1..=1024), help_heading = "Load")]
    pub batch: u32,
    /// Ticks a second, each a push to every room; 0 is flat out.
    #[arg(long, value_name = "HERTZ", default_value_t = 10.0)]
    pub rate: f64,
    /// Ticks that may be under way when flat out.
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = positive())]
    pub window: u32,
    /// Length of each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub seconds: f64,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = positive())]
    pub rounds: u32,
}
