//! The processes of a server that hand over to each other, one after the other.

use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, JoinHandle};

use serde::Serialize;

use crate::Result;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, sleep_until};
use crate::guard::Guard;

/// How long a process may take to end once the next one has taken over.
const END_NS: u64 = 30 * SECOND_NS;
const LOOK_NS: u64 = 5 * MILLISECOND_NS;

/// The result of an upgrade, as reported by the server.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Outcome {
    /// The process that serves now.
    pub pid: u32,
    pub went_on: u64,
    pub closed: u64,
    pub pause_us: f64,
}

/// The process that currently serves, of a server that hands over to new processes of the same program.
pub(crate) struct Succession {
    program: PathBuf,
    pid: u32,
    guard: Guard,
}

impl Succession {
    /// Begins with process `pid`. Fails if the host refuses a process.
    pub(crate) fn of(program: PathBuf, pid: u32) -> Result<Self> {
        Ok(Self { program, pid, guard: Guard::start()? })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Makes the server hand over to a new process of the same program. The result is an error if that is not done.
    pub(crate) fn order(&self) -> JoinHandle<Result<Outcome>> {
        let mut command = Command::new(&self.program);
        command.args(["upgrade", "--pid", &self.pid.to_string()]);
        thread::spawn(move || {
            let output = command.output()?;
            let [said, error] =
                [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
            match outcome(&said).filter(|_| output.status.success()) {
                Some(outcome) => Ok(outcome),
                None => Err(format!("no upgrade: {}{}", said.trim(), error.trim()).into()),
            }
        })
    }

    /// From now on process `pid` serves. Returns when the former one has ended; fails if it does not.
    pub(crate) fn go_on_as(&mut self, pid: u32) -> Result<()> {
        self.guard.add(pid)?;
        let former = std::mem::replace(&mut self.pid, pid);
        let deadline_ns = now_ns() + END_NS;
        while runs(former) {
            if now_ns() > deadline_ns {
                return Err(format!("process {former} does not end after its upgrade").into());
            }
            sleep_until(now_ns() + LOOK_NS);
        }
        Ok(())
    }
}

/// Whether the process runs; a process that has ended and was not waited for does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// "process 7 serves: 3 connections go on after a pause of 1.5 ms, 0 were closed"
fn outcome(said: &str) -> Option<Outcome> {
    let (pid, rest) = said.trim().strip_prefix("process ")?.split_once(" serves: ")?;
    let (went_on, rest) = rest.split_once(" connections go on after a pause of ")?;
    let (pause_ms, rest) = rest.split_once(" ms, ")?;
    let closed = rest.strip_suffix(" were closed")?;
    Some(Outcome {
        pid: pid.parse().ok()?,
        went_on: went_on.parse().ok()?,
        closed: closed.parse().ok()?,
        pause_us: pause_ms.parse::<f64>().ok()? * 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_of_an_upgrade_is_read_from_the_servers_words() {
        let said = "process 7 serves: 3 connections go on after a pause of 1.5 ms, 2 were closed\n";
        let expected = Outcome { pid: 7, went_on: 3, closed: 2, pause_us: 1500.0 };
        assert_eq!(outcome(said), Some(expected));
        assert_eq!(outcome("this server goes on as before"), None);
    }
}
