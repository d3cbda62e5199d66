//! Ends processes with the bench, however it ends, that it has not started itself: a server starts the process that it
//! hands over to.
//!
//! They are told to a process of the bench's own by a pipe. Where the pipe ends, it kills them.

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

/// The processes are killed when it is dropped.
pub(crate) struct Guard {
    child: Child,
    pids: Option<ChildStdin>,
    end: ChildStdout,
}

impl Guard {
    /// Fails if the process cannot be started.
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        // A Ctrl-C is the bench's alone.
        command.arg("guard").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (pids, end) = child.stdin.take().zip(child.stdout.take()).expect("both are pipes");
        Ok(Self { child, pids: Some(pids), end })
    }

    /// Process `pid` is to end with the bench, too.
    pub(crate) fn add(&mut self, pid: u32) -> io::Result<()> {
        let pids = self.pids.as_mut().expect("it is there until the end");
        writeln!(pids, "{pid}")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pids.take());
        // It ends with the process.
        let _ = self.end.read_to_end(&mut Vec::new());
        let _ = self.child.wait();
    }
}

/// Reads the ids of processes, and kills those that are still there at the end of the input.
pub(crate) fn guard() -> Result<()> {
    let mut processes = Vec::new();
    for line in io::stdin().lock().lines() {
        let Ok(pid) = line?.parse() else { continue };
        // One that has ended needs no guard. The descriptor stands for no other process.
        if let Some(pid) = Pid::from_raw(pid)
            && let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
        {
            processes.push(process);
        }
    }
    for process in processes {
        // One that has ended already is readable at once.
        let _ = pidfd_send_signal(&process, Signal::KILL);
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timespec(END_NS)))?;
    }
    Ok(())
}
