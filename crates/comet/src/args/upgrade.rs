//! `comet upgrade`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::value_parser;

use super::Serve;

/// `comet upgrade`
#[derive(Clone, PartialEq, Debug, clap::Args)]
#[command(
    after_help = "The server starts its own binary again, with its own arguments, and the new process reads the \
        configuration anew. Clients stay connected. Until the new process is ready nothing changes: if it fails, the \
        server goes on, and the cause is printed. The server is found by --pid, else by server.pid_file, else as the process \
        of this binary whose arguments are exactly those of this command, but for `upgrade`, --check, --binary and --start-time. \
        A server that was started with --cores needs one of the first two. SIGUSR2 to the server does the same without an answer.\n\n\
        Exit codes: 0, the new process serves; 1, it does not, and the former one goes on; 64, a mistake in the arguments."
)]
pub struct Upgrade {
    /// The configuration file of the server, which may name server.pid_file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Overrules one key of the configuration, as the server's flag does
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
    /// The process of the server
    #[arg(long, value_name = "ID", value_parser = value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// Start this binary [default: the one that the server was started as]
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Seconds that the new process may take until it is ready
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = value_parser!(u32).range(1..=3600))]
    pub start_time: u32,
    /// Only print what would be handed over
    #[arg(long)]
    pub check: bool,
}

impl Upgrade {
    /// What names the configuration, as flags of the server.
    #[must_use]
    pub fn serve(&self) -> Serve {
        Serve { config: self.config.clone(), sets: self.sets.clone(), ..Serve::default() }
    }
}

/// The arguments of the server that a command line of `comet upgrade` is for: those `behind` the word `upgrade`, without
/// the flags that a server does not have.
pub fn arguments_of_server(
    behind: impl IntoIterator<Item = OsString>,
) -> impl Iterator<Item = OsString> {
    let mut arguments = behind.into_iter();
    // A value is never a flag, whatever it looks like.
    let mut is_value = false;
    std::iter::from_fn(move || {
        loop {
            let argument = arguments.next()?;
            if std::mem::take(&mut is_value) {
                return Some(argument);
            }
            match &*argument.to_string_lossy() {
                "--check" => {}
                "--binary" | "--start-time" => drop(arguments.next()),
                flag if flag.starts_with("--binary=") || flag.starts_with("--start-time=") => {}
                flag => {
                    is_value = matches!(flag, "--config" | "--set");
                    return Some(argument);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_command_are_none_of_the_server() {
        let check = |line: &str, server: &str| {
            let line = line.split_whitespace().map(OsString::from);
            let found: Vec<OsString> = arguments_of_server(line).collect();
            assert_eq!(found, server.split_whitespace().collect::<Vec<_>>());
        };
        check("", "");
        check("--check --config a --set b.c=1", "--config a --set b.c=1");
        check("--config=a --binary x --set=b.c=1 --start-time 9", "--config=a --set=b.c=1");
        check("--start-time=9 --config upgrade --binary=x", "--config upgrade");
        check("--config --check --set --binary --check", "--config --check --set --binary");
    }
}
