//! The processes of a server, each of which the one before has handed over to.

use std::path::{self, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

use serde::Serialize;
use tempfile::tempfile;

use crate::Result;
use crate::args::{SetupArgs, UpgradeArgs};
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, sleep_until};
use crate::guard::Guard;
use crate::target::{Endpoints, Target, free_ports, list};
use crate::tls::Certificate;

/// How long a process may take to end once another one has taken over.
const END_NS: u64 = 30 * SECOND_NS;
const LOOK_NS: u64 = 5 * MILLISECOND_NS;

/// What an upgrade has done, as the server says.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Outcome {
    /// The process that serves now.
    pub pid: u32,
    pub went_on: u64,
    pub closed: u64,
    pub pause_us: f64,
}

pub(super) struct Line {
    program: PathBuf,
    pid: u32,
    guard: Guard,
    /// Its files are read by each process.
    _certificate: Certificate,
}

impl Line {
    /// Starts the first process, with further addresses for clients inside TLS, and `more` settings.
    pub(super) fn start(args: &UpgradeArgs, more: Vec<String>) -> Result<(Self, Target)> {
        let SetupArgs { server, host, .. } = &args.setup;
        let certificate = Certificate::make()?;
        let [tcp, websocket] = free_ports(std::net::Ipv4Addr::LOCALHOST)?;
        let settings = [
            list("tls.certificates", certificate.certificate().display()),
            list("tls.keys", certificate.key().display()),
            list("tcp.tls_bind", tcp),
            list("websocket.tls_bind", websocket),
        ];
        let arguments: Vec<_> = settings
            .into_iter()
            .chain(more)
            .flat_map(|setting| ["--set".to_owned(), setting])
            .collect();
        let mut target = Target::start(server, host, &arguments, tempfile()?)?;
        target.endpoints.inside_tls = Some(Box::new(Endpoints {
            tcp,
            websocket: Some(websocket),
            tls: Some(certificate.trust.clone()),
            inside_tls: None,
        }));
        let pid = target.gauge.pid.expect("the bench has started it");
        let program = path::absolute(server.program()?)?;
        Ok((Self { program, pid, guard: Guard::start()?, _certificate: certificate }, target))
    }

    /// Has the server hand over to a new process of the same program. It fails if that is not done.
    pub(super) fn order(&self) -> JoinHandle<Result<Outcome>> {
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

    /// From now on process `pid` serves. Returns when the former one has ended.
    pub(super) fn go_on_as(&mut self, pid: u32, target: &mut Target) -> Result<()> {
        self.guard.add(pid)?;
        let mut former = target.go_on_as(pid);
        let former_pid = std::mem::replace(&mut self.pid, pid);
        let deadline_ns = now_ns() + END_NS;
        loop {
            let has_ended = match &mut former {
                Some(process) => process.exit_code()?.is_some(),
                None => !target_runs(former_pid),
            };
            if has_ended {
                return Ok(());
            }
            if now_ns() > deadline_ns {
                return Err(format!("process {former_pid} does not end after its upgrade").into());
            }
            sleep_until(now_ns() + LOOK_NS);
        }
    }
}

/// A process that nobody waits for has ended, too.
fn target_runs(pid: u32) -> bool {
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
    fn what_the_server_says_is_read() {
        let said = "process 7 serves: 3 connections go on after a pause of 1.5 ms, 2 were closed\n";
        let expected = Outcome { pid: 7, went_on: 3, closed: 2, pause_us: 1500.0 };
        assert_eq!(outcome(said), Some(expected));
        assert_eq!(outcome("this server goes on as before"), None);
    }
}
