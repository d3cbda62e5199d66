//! Child processes that end with the bench, however it ends.
//!
//! A child is started through the bench's own `launch` command, which pins itself, asks the kernel to be
//! killed with its parent (`PR_SET_PDEATHSIG`) and then becomes the program. So neither a failure, a Ctrl-C nor
//! a kill leaves a server behind, and no signal needs handling.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::{env, io};

use comet_cpus::CpuList;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::Result;

/// A child process; killed when dropped.
pub(crate) struct Running(Child);

impl Running {
    /// The beginning of a command that runs `program` on `cpus`; its arguments are to be added. Fails if
    /// the bench does not find its own executable.
    pub(crate) fn command(cpus: &CpuList, program: &Path) -> io::Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["launch", "--cpus", &cpus.to_string(), "--"]).arg(program);
        Ok(command)
    }

    /// Starts what [`Running::command`] began. Fails if it could not be started.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            format!("cannot start {program}, which is this program: {error}; was it replaced?")
        });
        Ok(Self(child?))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has. Fails if the kernel does not say.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Its standard input and output. Panics if they are no pipes, or were taken before.
    pub(crate) fn pipes(&mut self) -> (ChildStdin, ChildStdout) {
        let taken = "taken once, from a command that pipes both";
        (self.0.stdin.take().expect(taken), self.0.stdout.take().expect(taken))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Becomes `command`; returns only where that fails. Fails if the CPUs do not exist, or the program cannot
/// be run.
pub(crate) fn launch(cpus: &CpuList, command: &[OsString]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    cpus.pin().map_err(|error| format!("cannot run on CPU {cpus}: {error}"))?;
    let (program, arguments) = command.split_first().ok_or("no program to launch")?;
    let error = Command::new(program).args(arguments).exec();
    Err(format!("cannot run {}: {error}", program.display()).into())
}
