//! `comet upgrade`, from the command line.

use std::path::absolute;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use std::{env, process, thread};

use comet_ops::{OtherProcess, Signals};

use crate::args::{Upgrade, arguments_of_server};
use crate::output::{note, print};
use crate::pid_file::{self, Holder};
use crate::run;
use crate::upgrade::{Request, ask};

/// Asks a running server to hand over, and prints the result. Returns the exit code.
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
    let interruption = Interruption::listen()?;
    let answer = ask(server, &request, || interruption.take_effect())?;
    if !answer.is_done {
        return Err(answer.text);
    }
    print(answer.text.trim_end())?;
    Ok(0)
}

/// The exit code that shells use for an end by SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Signals that would end this process are held until the server has connected.
struct Interruption {
    has_come: Arc<AtomicBool>,
    takes_effect: Arc<AtomicBool>,
}

impl Interruption {
    fn listen() -> Result<Self, String> {
        let mut signals = Signals::listen().map_err(|error| error.to_string())?;
        let [has_come, takes_effect] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let interruption =
            Self { has_come: Arc::clone(&has_come), takes_effect: Arc::clone(&takes_effect) };
        thread::spawn(move || {
            loop {
                signals.wait();
                has_come.store(true, SeqCst);
                if takes_effect.load(SeqCst) {
                    process::exit(EXIT_INTERRUPTED);
                }
                note("comet: it ends once the server has looked, which would upgrade otherwise");
            }
        });
        Ok(interruption)
    }

    /// Fails if a signal has come. Later signals end this process.
    fn take_effect(&self) -> Result<(), String> {
        self.takes_effect.store(true, SeqCst);
        match self.has_come.load(SeqCst) {
            true => Err("interrupted: nothing is done".to_owned()),
            false => Ok(()),
        }
    }
}

/// The server process that the configuration belongs to.
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
    // The arguments after the program's name and `upgrade`.
    let of_server = arguments_of_server(env::args_os().skip(2));
    let server = OtherProcess::with_arguments(of_server).ok_or(
        "no running server has this binary and exactly these arguments: pass --pid, or set server.pid_file",
    )?;
    Ok(server.id())
}
