//! Ends processes that the bench did not start itself, however the bench ends: a server starts the process that it
//! hands over to.
//!
//! Their ids are written to a pipe that a process of the bench reads. When the pipe ends, that process kills them.

use std::env;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Result;
use crate::clock::{SECOND_NS, timespec};

/// How long a killed process may take to end.
const END_NS: u64 = 10 * SECOND_NS;

/// When it is dropped, the processes are killed.
pub(crate) struct Guard {
    child: Child,
    pids: Option<ChildStdin>,
    end: ChildStdout,
}

impl Guard {
    /// Fails if the process cannot be started.
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        // A Ctrl-C is only for the bench.
        command.arg("guard").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (pids, end) = child.stdin.take().zip(child.stdout.take()).expect("both are pipes");
        Ok(Self { child, pids: Some(pids), end })
    }

    /// Makes process `pid` end with the bench.
    pub(crate) fn add(&mut self, pid: u32) -> io::Result<()> {
        let pids = self.pids.as_mut().expect("it is there until the end");
        writeln!(pids, "{pid}")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pids.take());
        // The pipe ends with the process.
        let _ = self.end.read_to_end(&mut Vec::new());
        let _ = self.child.wait();
    }
}

/// Reads the ids of processes, and kills those that still run at the end of the input.
pub(crate) fn guard() -> Result<()> {
    let mut processes = Vec::new();
    for line in io::stdin().lock().lines() {
        let Ok(pid) = line?.parse() else { continue };
        // A process that has ended needs no guard. The descriptor never refers to another process.
        if let Some(pid) = Pid::from_raw(pid)
            && let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
        {
            processes.push(process);
        }
    }
    for process in processes {
        // For a process that has ended already, the descriptor is readable at once.
        let _ = pidfd_send_signal(&process, Signal::KILL);
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timespec(END_NS)))?;
    }
    Ok(())
}
