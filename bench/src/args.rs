//! The command line. What a scenario was asked to do goes into its result as it is.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::{env, io};

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::cpu::CpuList;
use crate::message::STAMP_LEN;
use crate::yardstick::Mode;

/// The largest body that may be asked for, in bytes.
const SIZE_MAX: i64 = 1 << 20;

/// Measures a push server from outside, next to the least any server could do.
#[derive(Parser, Debug)]
#[command(name = "comet-bench", version, about)]
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
    /// Pushes to single keys at a rate: latency, as a ratio to a bare ping-pong.
    Latency(LatencyArgs),
    /// The bare loops and the ping-pong alone.
    Raw(RawArgs),
    /// Results side by side: a table, and a page with plots.
    Report(ReportArgs),
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
    #[arg(long, value_name = "CPUS", default_value_t = CpuList::first())]
    pub server_core: CpuList,
    /// CPUs of the server's control thread; those of --server-core unless given.
    #[arg(long, value_name = "CPUS")]
    pub control_cores: Option<CpuList>,
    /// CPUs of the bench itself.
    #[arg(long, value_name = "CPUS", default_value_t = CpuList::last())]
    pub bench_core: CpuList,
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
    /// Process id of the running server; without it there are no CPU and memory figures.
    #[arg(long, value_name = "PID", requires = "addr")]
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
}

/// What is pushed to rooms, and how fast.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct LoadArgs {
    /// Bytes of each message's body.
    #[arg(long, value_name = "BYTES", default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(STAMP_LEN as i64..=SIZE_MAX))]
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

impl Setting for ConnectArgs {
    fn host(&self) -> &HostArgs {
        &self.host
    }

    fn server(&self) -> Option<ServerArgs> {
        Some(self.server.clone())
    }
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
}

impl Setting for FanoutArgs {
    fn host(&self) -> &HostArgs {
        &self.host
    }

    fn server(&self) -> Option<ServerArgs> {
        Some(self.server.clone())
    }
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
    /// Pushes a second, each to the next key.
    #[arg(long, value_name = "HERTZ", default_value_t = 1000.0)]
    pub rate: f64,
    /// Length of each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub seconds: f64,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

impl Setting for LatencyArgs {
    fn host(&self) -> &HostArgs {
        &self.host
    }

    fn server(&self) -> Option<ServerArgs> {
        Some(self.server.clone())
    }
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
        let parse = |size| Cli::try_parse_from(["comet-bench", "raw", "--size", size]);
        assert!(parse("27").is_err());
        assert!(parse("28").is_ok());
    }
}
