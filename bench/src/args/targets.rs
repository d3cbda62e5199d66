//! What `targets` is asked to do.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{HostArgs, KEY, OPERATION, ROOM, ServerArgs, TOKEN, WS_PATH};

#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct TargetsArgs {
    #[command(flatten)]
    pub host: HostArgs,
    /// The comet to start; the one beside comet-bench unless given.
    #[arg(long, value_name = "PROGRAM")]
    pub server: Option<PathBuf>,
    /// A setting for every comet that is started, as its --set takes it. Can be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub server_set: Vec<String>,
    /// How often the turns are taken.
    #[arg(long, value_name = "NUMBER", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Measures these lines of the table only: "1,8,9".
    #[arg(long, value_name = "LINES", value_delimiter = ',',
        value_parser = clap::value_parser!(u8).range(1..=11))]
    pub only: Vec<u8>,
    /// Fails where something is not reached, as where it cannot be measured.
    #[arg(long)]
    pub strict: bool,
}

impl TargetsArgs {
    /// Whether a line of the table is to be measured.
    pub(crate) fn asks(&self, line: u8) -> bool {
        self.only.is_empty() || self.only.contains(&line)
    }

    /// The server to start, with clients as they are by default.
    pub(crate) fn server(&self) -> ServerArgs {
        ServerArgs {
            server: self.server.clone(),
            server_set: self.server_set.clone(),
            addr: None,
            ws_addr: None,
            grpc: None,
            stat: None,
            pid: None,
            tls: false,
            ws_path: WS_PATH.to_owned(),
            ws_share: 0.0,
            token: TOKEN.to_owned(),
            key: KEY.to_owned(),
            room: ROOM.to_owned(),
            operation: OPERATION,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::{Cli, Command};

    #[test]
    fn lines_of_the_table_can_be_chosen() {
        let parse = |arguments: &[&str]| {
            let all = ["comet-bench", "targets"].iter().chain(arguments);
            Cli::try_parse_from(all).map(|cli| match cli.command {
                Command::Targets(args) => args,
                other => panic!("{other:?}"),
            })
        };
        let all = parse(&[]).unwrap();
        assert!((1..=11).all(|line| all.asks(line)) && !all.strict);
        let some = parse(&["--only", "1,9", "--strict"]).unwrap();
        assert!(some.asks(1) && some.asks(9) && !some.asks(2) && some.strict);
        assert!(parse(&["--only", "12"]).is_err());
        assert!(parse(&["--only", "0"]).is_err());
        assert!(parse(&["--addr", "127.0.0.1:1"]).is_err(), "it starts its servers itself");
    }
}
