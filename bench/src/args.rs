//! The command line. What a scenario was asked to do goes into its result as it is.

mod attack;
mod books;
mod groups;
mod phase;
mod scenarios;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::attack::Attack;
pub(crate) use self::books::{BooksArgs, Fault};
pub(crate) use self::groups::{DialArgs, HostArgs, LoadArgs, ServerArgs, SetupArgs};
pub(crate) use self::phase::Phase;
pub(crate) use self::scenarios::{
    ChurnArgs, ClusterArgs, ConnectArgs, DayArgs, FairnessArgs, FanoutArgs, IdleArgs, LatencyArgs,
    OverloadArgs, RawArgs, ReadersArgs, ResumeArgs, RoomsArgs, SoakArgs, TargetsArgs, UpgradeArgs,
};
use crate::yardstick::Mode;
use comet_cpus::CpuList;

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
    /// Many rooms a connection: memory and CPU of a join, and what a push to a room costs whose members are in many.
    Rooms(RoomsArgs),
    /// Pushes by key: latency and CPU of a call, next to a bare ping-pong and a bare gRPC server.
    Latency(LatencyArgs),
    /// Connections that do nothing but send heartbeats: CPU, memory, round trips.
    Idle(IdleArgs),
    /// Connections that come, change their room and go, while pushes go to the rooms.
    Churn(ChurnArgs),
    /// Readers that are slow or stalled, and what the others notice of them.
    Readers(ReadersArgs),
    /// Clients that are cut off, pushed to while they are away, and come back: parked sessions, next to a plain reconnect.
    Resume(ResumeArgs),
    /// A day in phases: storms, pushes of all kinds, coming and going.
    Day(DayArgs),
    /// Attacks on doors and cores: latencies of the clients that are there, next to their quiet values.
    Overload(OverloadArgs),
    /// A large room beside pushes, heartbeats, connects and smaller rooms: how long these wait for it.
    Fairness(FairnessArgs),
    /// Churn, pushes, reloads and faults at random from a seed, for minutes: ledgers, memory and descriptors are checked.
    Soak(SoakArgs),
    /// Three servers and a NATS server between them: what the hop adds to a push, next to a bare message through NATS.
    Cluster(ClusterArgs),
    /// Numbered pushes over three servers, one of which is killed, and a NATS server that is: what became of each at each client.
    Books(BooksArgs),
    /// Live upgrades in a row (comet upgrade) under pushes: pauses, lost connections and messages, memory.
    Upgrade(UpgradeArgs),
    /// The bare loops and the ping-pong alone.
    Raw(RawArgs),
    /// The project's targets, each with what is measured: what `make bench` runs.
    Targets(TargetsArgs),
    /// Results side by side: a table, and a page with plots.
    Report(ReportArgs),
    /// The process that ends others with the bench.
    #[command(hide = true)]
    Guard,
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

    fn parse(line: &str) -> Option<Command> {
        let cli = Cli::try_parse_from(["comet-bench"].into_iter().chain(line.split(' ')));
        cli.ok().map(|cli| cli.command)
    }

    #[test]
    fn every_flag_has_a_heading_and_a_sentence() {
        Cli::command().debug_assert();
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands().filter(|is| !is.is_hide_set()) {
            for flag in command
                .get_arguments()
                .filter(|is| !["help", "out"].contains(&is.get_id().as_str()))
            {
                let (command, name) = (command.get_name(), flag.get_id());
                let is_grouped = flag.is_positional() || flag.get_help_heading().is_some();
                assert!(is_grouped && flag.get_help().is_some(), "{command}: {name}");
            }
        }
    }

    #[test]
    fn upgrades_are_of_many_connections_unless_asked() {
        let check = |line: &str, connections, websocket_share| {
            let Some(Command::Upgrade(args)) = parse(line) else { panic!("{line}") };
            let SetupArgs { dial, server, .. } = args.setup;
            assert_eq!((dial.connections, server.ws_share), (connections, websocket_share));
        };
        check("upgrade", 15_000, 0.5);
        check("upgrade -n 7 --ws-share 0", 7, 0.0);
    }

    #[test]
    fn sizes_below_a_stamp_are_refused() {
        assert!(parse("raw --size 9").is_none() && parse("raw --size 10").is_some());
        assert!(parse("latency --size 27").is_none() && parse("latency --size 28").is_some());
    }

    #[test]
    fn a_running_server_is_measured_without_yardsticks_unless_asked() {
        let check = |flags: &str, expected| {
            let Some(Command::Fanout(args)) = parse(&format!("fanout -n 5{flags}")) else {
                panic!("{flags}")
            };
            assert_eq!(args.yardsticks.wanted(&args.setup), expected, "{flags}");
        };
        check("", true);
        check(" --alone", false);
        check(" --addr 127.0.0.1:1", false);
        check(" --addr 127.0.0.1:1 --yardsticks", true);
        assert!(parse("fanout --alone --yardsticks").is_none());
    }

    #[test]
    fn lines_of_the_targets_can_be_chosen() {
        let Some(Command::Targets(all)) = parse("targets --strict") else {
            panic!("it is targets")
        };
        assert!((1..=16).all(|line| all.asks(line)) && all.strict);
        let Some(Command::Targets(some)) = parse("targets --only 1,9") else { panic!("and here") };
        assert!(some.asks(1) && some.asks(9) && !some.asks(2) && !some.strict);
        for refused in ["--only 17", "--only 0", "--addr 127.0.0.1:1"] {
            assert!(parse(&format!("targets {refused}")).is_none(), "{refused}");
        }
    }
}
