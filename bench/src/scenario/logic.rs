//! `comet logic` as a second process, which is stopped, killed and started again.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use comet_cpus::CpuList;
use rustix::process::Signal;
use tempfile::tempfile;

use crate::Result;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, sleep_until};
use crate::launch::Running;
use crate::target::{free_ports, list};

/// A loopback address that no client uses, so that the ports are still free when logic returns.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 200, 0, 1);
/// How long an end may take.
const PATIENCE_NS: u64 = 20 * SECOND_NS;

pub(super) struct Logic {
    program: PathBuf,
    cpus: CpuList,
    grpc: SocketAddr,
    stat: SocketAddr,
    log: File,
    process: Option<Running>,
}

impl Logic {
    /// Starts the `program`. Fails if it does not listen in time.
    pub(super) fn start(program: PathBuf, cpus: CpuList) -> Result<Self> {
        let [grpc, stat] = free_ports(HOST)?;
        let mut logic = Self { program, cpus, grpc, stat, log: tempfile()?, process: None };
        logic.restart()?;
        Ok(logic)
    }

    /// The settings of a comet that uses this logic.
    pub(super) fn settings(&self) -> [String; 4] {
        [
            list("logic.addrs", self.grpc),
            "logic.ping=\"200ms\"".to_owned(),
            "logic.timeout=\"5s\"".to_owned(),
            "logic.renew=\"1s\"".to_owned(),
        ]
    }

    /// Starts it again, once it has ended. Fails if it does not listen in time.
    pub(super) fn restart(&mut self) -> Result<()> {
        let mut command = Running::command(&self.cpus, &self.program)?;
        command.arg("logic");
        for setting in [
            list("logic_server.grpc", self.grpc),
            list("logic_server.stat", self.stat),
            "logic_server.http=[]".to_owned(),
        ] {
            command.args(["--set", &setting]);
        }
        let mut process = Running::start(&mut command, Some(self.log.try_clone()?))?;
        process.await_health(self.stat).map_err(|error| format!("logic: {error}"))?;
        self.process = Some(process);
        Ok(())
    }

    /// Fails if it has ended.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().ok_or("logic does not run")?.signal(signal)
    }

    /// Kills the process.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Ends the process with SIGTERM. Fails if it does not end in time, or with another code than 0.
    pub(super) fn end(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let mut process = self.process.take().expect("it has got a signal");
        let deadline_ns = now_ns() + PATIENCE_NS;
        while now_ns() < deadline_ns {
            match process.exit_code()? {
                None => sleep_until(now_ns() + 20 * MILLISECOND_NS),
                Some(0) => return Ok(()),
                Some(code) => {
                    return Err(format!("logic ended with {code}\n{}", process.log_end()).into());
                }
            }
        }
        Err("logic does not end".into())
    }
}
