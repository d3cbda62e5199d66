//! Child processes that end when the bench does, however it ends.
//!
//! A child is started through the bench's own `launch` command, which pins itself, asks the kernel to kill it with its
//! parent (`PR_SET_PDEATHSIG`) and then becomes the program. So neither a failure, a Ctrl-C nor a kill leaves a server
//! behind, and no signals need handling. The child has its own process group, so a Ctrl-C reaches only the bench: a
//! server that drains during a measurement would look like a fault.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::{
    env,
    io::{self, BufReader},
};

use comet_cpus::CpuList;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::Result;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, sleep_until};
use crate::scrape::http_get;

/// The number of bytes shown of a failed server's log.
const LOG_SHOWN: usize = 4096;

/// How long a server may take to become healthy.
const START_NS: u64 = 20 * SECOND_NS;
/// Time between two health checks.
const LOOK_NS: u64 = 20 * MILLISECOND_NS;

/// A child process; killed when dropped.
pub(crate) struct Running {
    child: Child,
    /// Its output, unless that goes to the terminal or a pipe.
    log: Option<File>,
}

impl Running {
    /// The beginning of a command that runs `program` on `cpus`; the caller adds its arguments. Fails if the bench does
    /// not find its own executable.
    pub(crate) fn command(cpus: &CpuList, program: &Path) -> io::Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        command.process_group(0);
        command.args(["launch", "--cpus", &cpus.to_string(), "--"]).arg(program);
        Ok(command)
    }

    /// Starts a command from [`Running::command`], with its output to `log` if there is one. Fails if it could not be
    /// started.
    pub(crate) fn start(command: &mut Command, log: Option<File>) -> Result<Self> {
        if let Some(log) = &log {
            command.stdout(log.try_clone()?).stderr(log.try_clone()?);
        }
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            format!("cannot start {program}, which is this program: {error}; was it replaced?")
        });
        Ok(Self { child: child?, log })
    }

    /// Starts this program on `cpus` with `arguments`; also returns its standard input and output. Fails like
    /// [`Running::start`].
    pub(crate) fn start_piped(
        cpus: &CpuList,
        arguments: &[&str],
    ) -> Result<(Self, ChildStdin, BufReader<ChildStdout>)> {
        let mut command = Self::command(cpus, &env::current_exe()?)?;
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Self::start(&mut command, None)?;
        let (stdin, stdout) = (running.child.stdin.take(), running.child.stdout.take());
        let (stdin, stdout) = stdin.zip(stdout).expect("both are pipes");
        Ok((running, stdin, BufReader::new(stdout)))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Checks that it still runs. Fails if it has ended; the error shows the end of its log.
    pub(crate) fn ensure_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the server ended: {status}\n{}", self.log_end()).into()),
        }
    }

    /// Waits until it reports at `stat` that it is healthy. Fails if it has ended, or is not healthy in time; the error
    /// shows the end of its log.
    pub(crate) fn await_health(&mut self, stat: SocketAddr) -> Result<()> {
        let deadline_ns = now_ns() + START_NS;
        while http_get(stat, "/healthz").is_err() {
            self.ensure_runs()?;
            if now_ns() > deadline_ns {
                return Err(format!("the server is not healthy\n{}", self.log_end()).into());
            }
            sleep_until(now_ns() + LOOK_NS);
        }
        Ok(())
    }

    /// Sends it a signal. Fails if it has ended and was waited for.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Its exit code, once it has ended; if a signal ended it, the code that a shell would show.
    pub(crate) fn exit_code(&mut self) -> Result<Option<i32>> {
        let status = self.child.try_wait()?;
        let code =
            |status: ExitStatus| status.code().or(status.signal().map(|signal| 128 + signal));
        Ok(status.and_then(code))
    }

    /// The end of its log.
    pub(crate) fn log_end(&self) -> String {
        let end = self.log.as_ref().map(|log| -> io::Result<Vec<u8>> {
            let start = log.metadata()?.len().saturating_sub(LOG_SHOWN as u64);
            let mut end = vec![0; LOG_SHOWN];
            let read = log.read_at(&mut end, start)?;
            end.truncate(read);
            Ok(end)
        });
        let end = end.and_then(io::Result::ok).unwrap_or_default();
        String::from_utf8_lossy(&end).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both only fail for a child that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes `command`; only returns if that fails. Fails if the CPUs do not exist, or the program cannot be run.
pub(crate) fn launch(cpus: &CpuList, command: &[OsString]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    cpus.pin().map_err(|error| format!("cannot run on CPU {cpus}: {error}"))?;
    let (program, arguments) = command.split_first().ok_or("no program to launch")?;
    let error = Command::new(program).args(arguments).exec();
    Err(format!("cannot run {}: {error}", program.display()).into())
}
