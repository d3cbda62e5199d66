//! The target of a measurement: a comet that the bench starts, a server that already runs, or a yardstick.

use std::fmt::Display;
use std::fs::File;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, path};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tempfile::tempfile;

use crate::Result;
use crate::args::{HostArgs, ServerArgs};
use crate::launch::Running;
use crate::process::{CpuSample, Gauge};
use crate::tls::{Certificate, Trust};
use crate::yardstick::{Feed, Mode};

/// The addresses that clients connect to.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    pub tcp: SocketAddr,
    pub websocket: Option<SocketAddr>,
    /// How clients use TLS with both addresses, if they do.
    pub tls: Option<Trust>,
    /// Further addresses, for the share of the connections that is inside TLS.
    pub inside_tls: Option<Box<Self>>,
}

/// Something that connections can be made to.
pub(crate) struct Target {
    pub endpoints: Endpoints,
    /// The address of its metrics, if it has any.
    pub stat: Option<SocketAddr>,
    /// Its push API, host:port; of the yardsticks only some have one.
    pub grpc: Option<String>,
    /// The address for push frames, if pushes are made with them.
    pub frames: Option<SocketAddr>,
    /// Measures its cost; others can use it at the same time.
    pub gauge: Gauge,
    /// Ends when the target is dropped.
    process: Option<Running>,
}

impl Target {
    /// The server that the arguments name, started unless it already runs. Fails if it does not start, or is not
    /// healthy in time; the error shows the end of its log.
    pub(crate) fn server(server: &ServerArgs, host: &HostArgs) -> Result<Self> {
        match server.addr {
            Some(tcp) => Ok(Self {
                endpoints: Endpoints {
                    tcp,
                    websocket: server.ws_addr,
                    tls: None,
                    inside_tls: None,
                },
                stat: server.stat,
                grpc: server.grpc.clone(),
                frames: None,
                gauge: Gauge { pid: server.pid },
                process: None,
            }),
            None => Self::start(server, host, &[], tempfile()?),
        }
    }

    /// A yardstick for `connections` connections, and its feed. Fails if it does not start.
    pub(crate) fn yardstick(
        mode: Mode,
        connections: usize,
        host: &HostArgs,
    ) -> Result<(Self, Feed)> {
        let mode_name = mode.to_possible_value().expect("no mode is skipped");
        let connections = connections.to_string();
        let arguments =
            ["yardstick", "--mode", mode_name.get_name(), "--connections", &connections];
        let (process, stdin, mut stdout) = Running::start_piped(&host.server_core, &arguments)?;
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let port: u16 = (line.trim().parse())
            .map_err(|_| "the yardstick ended before it listened; its reason is above")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let target = Self {
            endpoints: Endpoints {
                tcp: address,
                websocket: Some(address),
                tls: None,
                inside_tls: None,
            },
            stat: None,
            grpc: mode.takes_calls().then(|| address.to_string()),
            frames: None,
            gauge: Gauge { pid: Some(process.pid()) },
            process: Some(process),
        };
        let feed = match mode {
            Mode::Fan | Mode::One => Feed::socket(address, mode == Mode::One, stdin),
            _ => Feed::Pipe(stdin),
        };
        Ok((target, feed))
    }

    /// CPU time so far, if the process is known. Fails if the process has ended; the error shows the end of its log.
    pub(crate) fn cpu(&mut self) -> Result<Option<CpuSample>> {
        self.ensure_runs()?;
        self.gauge.cpu()
    }

    /// Checks that a process that the bench has started still runs. Fails if it has ended; the error shows the end of
    /// its log.
    pub(crate) fn ensure_runs(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Running::ensure_runs)
    }

    /// Takes out the process that the bench has started, which may end from now on because it hands over to another
    /// one. It is killed when dropped.
    pub(crate) fn take_process(&mut self) -> Option<Running> {
        self.process.take()
    }

    /// From now on the server is process `pid`, which the previous process has started and handed over to. The previous
    /// one has ended.
    pub(crate) fn go_on_as(&mut self, pid: u32) {
        self.gauge.pid = Some(pid);
        self.process = None;
    }

    /// Starts a server with further `arguments`; it logs to `log`. Fails like [`Target::server`].
    pub(crate) fn start(
        server: &ServerArgs,
        host: &HostArgs,
        arguments: &[String],
        log: File,
    ) -> Result<Self> {
        let program = server.program()?;
        if !program.is_file() {
            let program = program.display();
            return Err(format!("no server at {program}: build it, or name it by --server").into());
        }
        // A program without a folder is in the current one, but would be searched for in PATH.
        let program = path::absolute(program)?;
        let control = host.control_cores.as_ref().unwrap_or(&host.server_core);
        let [tcp, websocket, grpc, stat, frames] = free_ports(Ipv4Addr::LOCALHOST)?;
        let mut settings = vec![
            list("push.grpc", grpc),
            list("monitor.stat", stat),
            // Two servers may run at the same time; the bench pushes with gRPC and takes no profiles.
            "push.http=[]".to_owned(),
            "monitor.pprof=[]".to_owned(),
        ];
        if server.frames {
            settings.push(list("push.frames", frames));
        }
        // The server reads the files when it starts; then they are deleted.
        let certificate = server.tls.then(Certificate::make).transpose()?;
        if let Some(certificate) = &certificate {
            settings.push(list("tls.certificates", certificate.certificate().display()));
            settings.push(list("tls.keys", certificate.key().display()));
        }
        for (transport, address) in [("tcp", tcp), ("websocket", websocket)] {
            if certificate.is_some() {
                settings.push(format!("{transport}.bind=[]"));
                settings.push(list(&format!("{transport}.tls_bind"), address));
            } else {
                settings.push(list(&format!("{transport}.bind"), address));
            }
        }
        let mut command = Running::command(&host.server_core.with(control), &program)?;
        command
            .args(["--cores", &host.server_core.to_string()])
            .args(["--control-cores", &control.to_string()]);
        settings.extend(server.deflate.then(|| "websocket.deflate=true".to_owned()));
        for setting in settings.iter().chain(&server.server_set) {
            command.args(["--set", setting]);
        }
        command.args(arguments);
        let mut process = Running::start(&mut command, Some(log))?;
        process.await_health(stat)?;
        Ok(Self {
            endpoints: Endpoints {
                tcp,
                websocket: Some(websocket),
                tls: certificate.as_ref().map(|made| made.trust.clone()),
                inside_tls: None,
            },
            stat: Some(stat),
            grpc: Some(grpc.to_string()),
            frames: server.frames.then_some(frames),
            gauge: Gauge { pid: Some(process.pid()) },
            process: Some(process),
        })
    }
}

/// A setting that is a list with one text.
pub(crate) fn list(key: &str, value: impl Display) -> String {
    format!("{key}=[\"{value}\"]")
}

/// The ports to try. They are below the ephemeral ports, which the kernel assigns to whoever asks for a free one.
const PORTS: Range<u32> = 12_000..32_000;

/// Ports of a loopback address that were free a moment ago, each returned only once by this process. They are released
/// before the server takes them: nobody else on a host used for measuring should choose the same ones.
pub(crate) fn free_ports<const N: usize>(host: Ipv4Addr) -> io::Result<[SocketAddr; N]> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Different processes begin at ports far apart.
    let first = std::process::id().wrapping_mul(7_919);
    let mut free = Vec::with_capacity(N);
    while free.len() < N {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + first.wrapping_add(turn) % PORTS.len() as u32;
        let address = SocketAddr::from((host, u16::try_from(port).expect("the range is of ports")));
        match TcpListener::bind(address) {
            Ok(_) => free.push(address),
            Err(error) if turn as usize >= PORTS.len() => return Err(error),
            // The port is in use.
            Err(_) => {}
        }
    }
    Ok(free.try_into().expect("a port each"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrape::http_get;

    #[test]
    fn free_ports_differ_and_can_be_taken() {
        let [first, second] = free_ports(Ipv4Addr::LOCALHOST).unwrap();
        assert_ne!(first, second);
        assert!(TcpListener::bind(first).is_ok());
        assert!(http_get(second, "/healthz").is_err());
    }
}
