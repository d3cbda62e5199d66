//! Where a measurement was made: the machine, the CPUs each side was pinned to, and the programs.

use std::collections::BTreeMap;
use std::process::Command;
use std::{env, fs};

use procfs::process::Process;
use procfs::{CpuInfo, Current};
use rustix::system::{sysinfo, uname};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::{HostArgs, ServerArgs};

/// A program that took part.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    pub version: String,
    /// The commit it was built from; `unknown` outside of git, null if the program does not print one.
    pub commit: Option<String>,
}

/// This machine. Unknown facts are null.
pub(super) fn machine() -> Value {
    let (system, memory) = (uname(), sysinfo());
    let cpus = CpuInfo::current().ok();
    let flags = cpus.as_ref().and_then(|cpus| cpus.flags(0)).unwrap_or_default();
    json!({
        "name": system.nodename().to_string_lossy(),
        "kernel": system.release().to_string_lossy(),
        "cpu": cpus.as_ref().and_then(|cpus| cpus.model_name(0)).unwrap_or("unknown"),
        "cpus": cpus.as_ref().map(CpuInfo::num_cores),
        "memory_bytes": memory.totalram * u64::from(memory.mem_unit),
        // On a virtual machine, CPUs may be shared with others.
        "virtual_machine": flags.contains(&"hypervisor"),
        "clock_source": line_of("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        // It controls the clock of the CPUs.
        "governor": line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        // The kernel's measure against each vulnerability of the CPU.
        "mitigations": mitigations(),
    })
}

/// The CPUs that each side may use, as lists; null for a side that takes no part, or is not known. For a server that
/// the bench starts these are the CPUs of its data cores, from the arguments; for one that runs already, all those that
/// the kernel lets it use.
pub(super) fn pinning(host: &HostArgs, server: Option<&ServerArgs>) -> Value {
    let started = server.is_some_and(|server| server.addr.is_none());
    let control = host.control_cores.as_ref().unwrap_or(&host.server_core);
    json!({
        "server": match server {
            Some(_) if started => Some(host.server_core.to_string()),
            Some(server) => server.pid.and_then(allowed_cpus),
            None => None,
        },
        "control": started.then_some(control),
        "yardsticks": host.server_core,
        "bench": host.bench_core,
    })
}

impl Program {
    /// This one.
    pub(crate) fn bench() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: Some(env!("COMET_BENCH_COMMIT").to_owned()),
        }
    }

    /// The server that the bench starts, from its `--version`. `None` for a server that runs already, which may be any
    /// program.
    pub(crate) fn server(server: &ServerArgs) -> Option<Self> {
        if server.addr.is_some() {
            return None;
        }
        let output = Command::new(server.program().ok()?).arg("--version").output().ok()?;
        parse_version(&String::from_utf8(output.stdout).ok()?)
    }
}

/// Parses `comet 0.1.0 (commit 2c797b4)`; the commit may be missing.
fn parse_version(line: &str) -> Option<Program> {
    let (_name, rest) = line.trim().split_once(' ')?;
    let (version, commit) = match rest.split_once(" (commit ") {
        Some((version, commit)) => (version, commit.strip_suffix(')')),
        None => (rest, None),
    };
    Some(Program { version: version.to_owned(), commit: commit.map(str::to_owned) })
}

fn line_of(file: &str) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

fn mitigations() -> BTreeMap<String, String> {
    let files = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten();
    let entries = files.flatten().filter_map(|file| {
        let text = line_of(file.path().to_str()?)?;
        (text != "Not affected").then(|| (file.file_name().to_string_lossy().into_owned(), text))
    });
    entries.collect()
}

fn allowed_cpus(pid: u32) -> Option<String> {
    let status = Process::new(pid.cast_signed()).ok()?.status().ok()?;
    let range = |&(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    Some(status.cpus_allowed_list?.iter().map(range).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn versions_are_taken_apart() {
        let check = |line, version: &str, commit: Option<&str>| {
            let commit = commit.map(str::to_owned);
            let expected = Program { version: version.to_owned(), commit };
            assert_eq!(parse_version(line), Some(expected), "{line}");
        };
        check("comet 0.1.0 (commit 2c797b4)\n", "0.1.0", Some("2c797b4"));
        check("comet 0.1.0\n", "0.1.0", None);
        assert_eq!(parse_version("nothing"), None);
    }

    #[test]
    fn a_running_server_is_described_only_by_data_of_the_kernel() {
        let pid = std::process::id().to_string();
        let address = ["--addr", "127.0.0.1:1", "--pid", &pid];
        let cli = Cli::parse_from([&["comet-bench", "connect"][..], &address].concat());
        let Command::Connect(args) = cli.command else { panic!("it is connect") };
        assert_eq!(Program::server(&args.setup.server), None);
        let pinning = pinning(&args.setup.host, Some(&args.setup.server));
        assert!(pinning["control"].is_null() && pinning["server"].is_string(), "{pinning}");
    }

    #[test]
    fn this_host_is_known() {
        let host = machine();
        assert!(host["cpus"].as_u64() > Some(0) && host["memory_bytes"].as_u64() > Some(1 << 20));
        assert!(allowed_cpus(std::process::id()).is_some());
    }
}
