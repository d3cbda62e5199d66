//! The command line: the server and its flags, `comet logic`, and the helpers `listen`, `push`, `ctl`, `stat` and `top`.

mod api;
mod ctl;
mod upgrade;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand, value_parser};

use crate::output;

pub use api::{Access, Api, Monitored};
pub use ctl::{Ctl, Drain, KickTarget, Order, RoomChange, TraceSubject};
pub use upgrade::{Upgrade, arguments_of_server};

/// Exit code for a command line or a configuration that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Exit code of a push that no connection matched.
pub const EXIT_NO_MATCH: u8 = 3;

/// The operation of a pushed message when none is named: goim's usual one.
pub const OPERATION: i32 = 5;

/// The comet push gateway.
///
/// Without a command it runs the server, on the built-in defaults (those comet.toml ships) if no
/// --config is given.
#[derive(Clone, PartialEq, Debug, Parser)]
#[command(
    name = "comet",
    version,
    long_version = comet_ops::VERSION_AND_COMMIT,
    after_help = "COMET_SECTION_KEY in the environment sets a key too: COMET_TCP_BIND sets tcp.bind.\n\n\
        Exit codes: 0, ended by a signal; 1, the start or the output failed; 64, a mistake in the arguments, \
        the configuration or RUST_LOG.",
    args_conflicts_with_subcommands = true
)]
pub struct Args {
    /// How to run the server; all defaults if there is a [`Args::command`].
    #[command(flatten)]
    pub serve: Serve,
    /// What to do instead of running the server.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags of the server.
#[derive(Clone, PartialEq, Debug, Default, clap::Args)]
pub struct Serve {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// CPUs of the data cores, like 0-3,6 (overrules server.cores)
    #[arg(long, value_name = "LIST")]
    pub cores: Option<String>,
    /// CPUs of the control thread, like 7 (overrules server.control_cores)
    #[arg(long, value_name = "LIST")]
    pub control_cores: Option<String>,
    /// Overrules one key of the configuration; the value is TOML: 'websocket.path="/push"'
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Try all that a start needs, print the effective configuration and the worst-case memory, and exit
    #[arg(long)]
    pub check: bool,
}

/// The other server, and helpers that talk to a running one.
#[derive(Clone, PartialEq, Debug, Subcommand)]
pub enum Command {
    /// Run the logic service of other comets: tokens, sessions, and the HTTP push API before them
    Logic(Logic),
    /// Connect as a client and print the messages that arrive
    Listen(Listen),
    /// Push a message, or many, and print the ledger
    Push(Push),
    /// Drain a running server, close or block clients, and more
    Ctl(Ctl),
    /// Hand the connections of a running server over to a new process
    Upgrade(Upgrade),
    /// Write man pages and shell completions into a directory, for packages
    #[command(hide = true)]
    Manual {
        /// The directory; files in it are written anew
        directory: PathBuf,
    },
    /// Print what a running server counts
    Stat(Stat),
    /// Show what a running server is busy with: load of the cores, rates, busiest rooms, slowest clients
    Top(Top),
}

/// `comet logic`
#[derive(Clone, PartialEq, Debug, Default, clap::Args)]
pub struct Logic {
    /// The configuration file; the comets' own will do
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrules one key of the configuration; the value is TOML: 'token.kind="jwt"'
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// Try all that a start needs, print the effective configuration, and exit
    #[arg(long)]
    pub check: bool,
}

impl Logic {
    /// The same as flags of the server, all of whose sections are in one file.
    #[must_use]
    pub fn serve(&self) -> Serve {
        Serve { config: self.config.clone(), sets: self.sets.clone(), ..Serve::default() }
    }
}

/// `comet listen`
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Listen {
    /// The room to join [default with --token: the room of the token]
    #[arg(long, required_unless_present = "token")]
    pub room: Option<String>,
    /// The user id, as a token of kind "open"; 0 is anonymous
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, conflicts_with = "token")]
    pub user: i64,
    /// The token to authenticate with; @FILE reads it from a file, so that it is not in the list of
    /// processes
    #[arg(long, value_name = "TOKEN|@FILE")]
    pub token: Option<String>,
    /// Connect over WebSocket instead of TCP
    #[arg(long)]
    pub ws: bool,
    /// Path of the WebSocket, the server's websocket.path
    #[arg(long, default_value = "/sub", value_parser = url_path, requires = "ws")]
    pub path: String,
    /// HOST:PORT of the server [default: 127.0.0.1:8080, with --ws 127.0.0.1:8090, with --ws --tls
    /// 127.0.0.1:8095]
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    pub addr: Option<String>,
    /// Connect over TLS: HOST:PORT is one of tcp.tls_bind, with --ws one of websocket.tls_bind
    #[arg(long)]
    pub tls: bool,
    /// PEM certificates to trust, instead of the authorities that browsers trust
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub ca: Option<PathBuf>,
    /// The name the server's certificate is for, if not HOST
    #[arg(long, value_name = "NAME", requires = "tls")]
    pub server_name: Option<String>,
}

impl Listen {
    /// The address to connect to; `None` if it has no usual port, which is TCP in TLS.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        let default = match (self.ws, self.tls) {
            (false, false) => Some("127.0.0.1:8080"),
            (true, false) => Some("127.0.0.1:8090"),
            (true, true) => Some("127.0.0.1:8095"),
            (false, true) => None,
        };
        self.addr.as_deref().or(default)
    }
}

/// An address that can be looked up.
fn host_and_port(text: &str) -> Result<String, &'static str> {
    let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
        is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_address { Ok(text.to_owned()) } else { Err("write HOST:PORT") }
}

/// A path that fits into the first line of a request.
fn url_path(text: &str) -> Result<String, &'static str> {
    let fits = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("a path begins with / and has no spaces") }
}

/// `comet push`
#[derive(Clone, PartialEq, Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0, a connection matched, a session parks the push, a paced broadcast is scheduled, or the \
        server sends no ledger; 3, none of these; 1, a push or the output failed; 64, a mistake in the arguments. The \
        ledger has the connections that matched and did not get the push, and by `unanswered` the hosts whose part is \
        missing. Of several pushes the sums are printed; the first one that fails ends them."
)]
pub struct Push {
    /// Whom to push to.
    #[command(subcommand)]
    pub target: Target,
    /// The operation clients see
    #[arg(long, global = true, default_value_t = OPERATION, value_name = "N")]
    pub operation: i32,
    /// Pushes a second at most [default: one after the other]
    #[arg(long, global = true, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Which server.
    #[command(flatten)]
    pub api: Api,
}

/// Whom `comet push` pushes to, and what.
#[derive(Clone, PartialEq, Debug, Subcommand)]
pub enum Target {
    /// The connection that holds a key
    Key {
        /// The key
        key: String,
        /// What is pushed.
        #[command(flatten)]
        input: Input,
    },
    /// The connections that hold one of many keys
    Keys {
        /// A key; may be repeated
        #[arg(long = "name", value_name = "KEY", required_unless_present = "from")]
        names: Vec<String>,
        /// A file with a key on each line
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// What is pushed.
        #[command(flatten)]
        input: Input,
    },
    /// All connections of a user
    User {
        /// The user id
        #[arg(allow_negative_numbers = true)]
        user: i64,
        /// What is pushed.
        #[command(flatten)]
        input: Input,
    },
    /// All connections in a room
    Room {
        /// The room
        room: String,
        /// What is pushed.
        #[command(flatten)]
        input: Input,
    },
    /// All connections
    All {
        /// What is pushed.
        #[command(flatten)]
        input: Input,
        /// Connections a second that get the message [default: all at once]
        #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=i64::from(i32::MAX)))]
        speed: Option<u32>,
    },
}

impl Target {
    /// What is pushed.
    #[must_use]
    pub fn input(&self) -> &Input {
        match self {
            Self::Key { input, .. }
            | Self::Keys { input, .. }
            | Self::User { input, .. }
            | Self::Room { input, .. }
            | Self::All { input, .. } => input,
        }
    }
}

/// Where the messages of `comet push` come from.
#[derive(Clone, PartialEq, Debug, Default, clap::Args)]
pub struct Input {
    /// The message; - reads it from standard input, as it is
    #[arg(required_unless_present = "file")]
    pub text: Option<String>,
    /// Read the message from a file, as it is
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// Push each line as a message of its own, without the end of the line, as soon as it is read
    #[arg(long)]
    pub lines: bool,
}

/// `comet stat`
#[derive(Clone, PartialEq, Debug, clap::Args)]
pub struct Stat {
    /// Which server.
    #[command(flatten)]
    pub monitored: Monitored,
    /// Print the JSON of /stat
    #[arg(long)]
    pub json: bool,
}

/// `comet top`
#[derive(Clone, PartialEq, Debug, clap::Args)]
#[command(after_help = "A new screen each second; q or Ctrl-C ends it.")]
pub struct Top {
    /// Which server.
    #[command(flatten)]
    pub monitored: Monitored,
    /// Print one screen, of one second, and end; so it does where there is no terminal
    #[arg(long)]
    pub once: bool,
}

/// Why there are no [`Args`]: `--help`, `--version`, or a command line that cannot be used.
#[derive(Debug)]
pub struct Stop(clap::Error);

impl Stop {
    /// 0 for `--help` and `--version`, else [`EXIT_USAGE`].
    #[must_use]
    pub fn code(&self) -> u8 {
        if self.0.use_stderr() { EXIT_USAGE } else { 0 }
    }

    /// Prints help and version to standard output, mistakes to standard error. Returns [`Self::code`].
    ///
    /// # Errors
    /// If help or version cannot be written, as a sentence.
    pub fn report(self) -> Result<u8, String> {
        let written = self.0.print().and_then(|()| io::stdout().flush());
        match self.code() {
            0 => output::outcome(written).map(|_| 0),
            // Standard error failed: there is no other place to report it.
            code => Ok(code),
        }
    }
}

/// Reads a command line; the first of `args` is the program's name.
///
/// # Errors
/// If nothing is to be run; see [`Stop`].
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, Stop> {
    Args::try_parse_from(args).map_err(Stop)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn read(line: &[&str]) -> Result<Args, Stop> {
        parse(["comet"].iter().chain(line).map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_server_is_the_default() {
        let check = |line: &[&str], serve: Serve| {
            assert_eq!(read(line).unwrap(), Args { serve, command: None }, "{line:?}");
        };
        check(&[], Serve::default());
        check(
            &["--config", "a.toml", "--cores", "0-3,6", "--control-cores=7", "--check"],
            Serve {
                config: Some("a.toml".into()),
                cores: Some("0-3,6".to_owned()),
                control_cores: Some("7".to_owned()),
                sets: Vec::new(),
                check: true,
            },
        );
        let sets = vec!["a.b=1".to_owned(), "c.d=[\"x\"]".to_owned()];
        check(&["--set", "a.b=1", "--set", "c.d=[\"x\"]"], Serve { sets, ..Serve::default() });
    }

    #[test]
    fn logic_takes_the_same_configuration() {
        let check = |line: &[&str], logic: Logic| {
            assert_eq!(read(line).unwrap().command, Some(Command::Logic(logic)), "{line:?}");
        };
        check(&["logic"], Logic::default());
        check(
            &["logic", "--config", "a.toml", "--set", "a.b=1", "--set", "c.d=2", "--check"],
            Logic {
                config: Some("a.toml".into()),
                sets: vec!["a.b=1".to_owned(), "c.d=2".to_owned()],
                check: true,
            },
        );
    }

    #[test]
    fn listen_knows_where_each_transport_is() {
        let check = |line: &[&str], user, ws, address: Option<&str>| {
            let Some(Command::Listen(listen)) = read(line).unwrap().command else {
                panic!("{line:?}");
            };
            let room = listen.room.as_deref();
            assert_eq!((room, listen.user, listen.ws), (Some("r"), user, ws), "{line:?}");
            assert_eq!(listen.address(), address, "{line:?}");
        };
        check(&["listen", "--room", "r"], 0, false, Some("127.0.0.1:8080"));
        check(&["listen", "--ws", "--room", "r", "--user", "-7"], -7, true, Some("127.0.0.1:8090"));
        check(&["listen", "--room=r", "--addr", "h:1"], 0, false, Some("h:1"));
        check(&["listen", "--room=r", "--ws", "--tls"], 0, true, Some("127.0.0.1:8095"));
        check(&["listen", "--room=r", "--tls"], 0, false, None);
        check(&["listen", "--room=r", "--ws", "--path=/p"], 0, true, Some("127.0.0.1:8090"));
        check(&["listen", "--room=r", "--token=@f"], 0, false, Some("127.0.0.1:8080"));
        let tls = ["--tls", "--ca", "ca.pem", "--server-name", "push.example.com"];
        let line = [&["listen", "--room=r", "--addr", "h:1"], &tls[..]].concat();
        check(&line, 0, false, Some("h:1"));
    }

    #[test]
    fn push_names_a_target_and_a_text() {
        let check = |line: &[&str], target: Target, operation, grpc: &str| {
            let grpc = grpc.to_owned();
            let (access, certificate, private_key) = (Access::default(), None, None);
            let api = Api { grpc, access, certificate, private_key };
            let push = Push { target, operation, rate: None, api };
            assert_eq!(read(line).unwrap().command, Some(Command::Push(push)), "{line:?}");
        };
        let (text, here) = (Some("hi there".to_owned()), "127.0.0.1:8083");
        let input = Input { text, ..Input::default() };
        check(
            &["push", "key", "k", "hi there"],
            Target::Key { key: "k".to_owned(), input: input.clone() },
            OPERATION,
            here,
        );
        check(
            &["push", "user", "-42", "hi there", "--operation", "1000"],
            Target::User { user: -42, input: input.clone() },
            1000,
            here,
        );
        check(
            &["push", "--grpc", "h:1", "room", "live://1", "hi there"],
            Target::Room { room: "live://1".to_owned(), input: input.clone() },
            OPERATION,
            "h:1",
        );
        check(
            &["push", "all", "hi there"],
            Target::All { input: input.clone(), speed: None },
            OPERATION,
            here,
        );
        check(
            &["push", "all", "--speed", "100", "hi there"],
            Target::All { input: input.clone(), speed: Some(100) },
            OPERATION,
            here,
        );
        let file = Input { text: None, file: Some("f".into()), lines: true };
        check(
            &[
                "push", "keys", "--name", "a", "--name", "b", "--from", "k", "--file", "f",
                "--lines",
            ],
            Target::Keys {
                names: vec!["a".to_owned(), "b".to_owned()],
                from: Some("k".into()),
                input: file,
            },
            OPERATION,
            here,
        );
    }

    #[test]
    fn a_server_is_looked_at_by_its_address_or_its_configuration() {
        let server = Some("h:1".to_owned());
        let access = Access { token: Some("@t".to_owned()), ca: None };
        let monitored = Monitored { server, config: None, access };
        let line = ["stat", "--server", "h:1", "--token", "@t", "--json"];
        let stat = Stat { monitored: monitored.clone(), json: true };
        assert_eq!(read(&line).unwrap().command, Some(Command::Stat(stat)));
        let top = Top { monitored: Monitored::default(), once: true };
        assert_eq!(read(&["top", "--once"]).unwrap().command, Some(Command::Top(top)));
        read(&["top", "--server", "h:1", "--config", "f"]).unwrap_err();
    }

    #[test]
    fn usage_mistakes_and_questions_end_with_their_code() {
        let check = |line: &[&str], code: u8| {
            assert_eq!(read(line).expect_err("stop").code(), code, "{line:?}");
        };
        check(&["--help"], 0);
        check(&["--version"], 0);
        check(&["push", "key", "--help"], 0);
        check(&["--core", "1"], EXIT_USAGE);
        check(&["--config"], EXIT_USAGE);
        check(&["serve"], EXIT_USAGE);
        check(&["logic", "--cores", "1"], EXIT_USAGE);
        check(&["--check", "listen", "--room", "r"], EXIT_USAGE);
        check(&["listen"], EXIT_USAGE);
        check(&["listen", "--room", "r", "--user", "anna"], EXIT_USAGE);
        check(&["listen", "--room", "r", "--ca", "ca.pem"], EXIT_USAGE);
        check(&["listen", "--room", "r", "--server-name", "h"], EXIT_USAGE);
        check(&["upgrade", "--start-time", "0"], EXIT_USAGE);
        check(&["ctl"], EXIT_USAGE);
        check(&["ctl", "move-off", "0", "--per-second", "1"], EXIT_USAGE);
        check(&["ctl", "move-off", "1"], EXIT_USAGE);
        check(&["ctl", "kick", "key"], EXIT_USAGE);
        check(&["ctl", "block", "192.0.2.7"], EXIT_USAGE);
        check(&["ctl", "drain", "--keep-clients", "--wait"], EXIT_USAGE);
        check(&["push"], EXIT_USAGE);
        check(&["push", "all"], EXIT_USAGE);
        check(&["push", "all", "text", "--file", "f"], EXIT_USAGE);
        check(&["push", "all", "text", "--rate", "0"], EXIT_USAGE);
        check(&["push", "keys", "text"], EXIT_USAGE);
        check(&["push", "key", "text"], EXIT_USAGE);
        check(&["push", "user", "anna", "text"], EXIT_USAGE);
        check(&["push", "all", "to", "text"], EXIT_USAGE);
        check(&["push", "all", "text", "--speed", "0"], EXIT_USAGE);
        check(&["push", "all", "text", "--speed", "2147483648"], EXIT_USAGE);
        check(&["push", "room", "r", "text", "--speed", "1"], EXIT_USAGE);
        check(&["listen", "--room", "r", "--user", "1", "--token", "t"], EXIT_USAGE);
        check(&["listen", "--room", "r", "--path", "/push"], EXIT_USAGE);
        check(&["listen", "--room", "r", "--ws", "--path", "push"], EXIT_USAGE);
        check(&["listen", "--room", "r", "--ws", "--path", "/a b"], EXIT_USAGE);
    }
}
