//! `comet upgrade`, from the command line.

use std::path::absolute;
use std::time::Duration;

use comet_ops::OtherProcess;

use crate::args::Upgrade;
use crate::output::print;
use crate::pid_file::{self, Holder};
use crate::run;
use crate::upgrade::{Request, ask};

/// Asks a running server to hand over, and prints what became of it. Returns the exit code.
///
/// # Errors
/// If there is no server, or it does not hand over, as a sentence.
pub fn upgrade(args: &Upgrade) -> Result<u8, String> {
    let server = match args.pid {
        Some(pid) => pid,
        None => find(args)?,
    };
    let binary = args.binary.as_ref().map(|path| {
        absolute(path).map_err(|error| format!("--binary {}: {error}", path.display()))
    });
    let request = Request {
        binary: binary.transpose()?,
        start: Duration::from_secs(args.start_time.into()),
        is_check: args.check,
    };
    let answer = ask(server, &request)?;
    if !answer.is_done {
        return Err(answer.text);
    }
    print(answer.text.trim_end())?;
    Ok(0)
}

/// The process of the server that the configuration is for.
fn find(args: &Upgrade) -> Result<u32, String> {
    let config = run::configure(&args.serve())?;
    if let Some(path) = &config.server.pid_file {
        return match pid_file::holder(path)? {
            Some(Holder::Process(id)) => Ok(id),
            Some(Holder::Unknown) => {
                Err(format!("{}: the server is starting or ending", path.display()))
            }
            None => Err(format!("{}: no server is running", path.display())),
        };
    }
    let server = OtherProcess::with_arguments_but("upgrade").ok_or(
        "no server with these arguments is found: name it with --pid, or set server.pid_file",
    )?;
    Ok(server.id())
}
