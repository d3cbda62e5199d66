//! A `nats-server` that the bench starts, and a minimal client for it: a few lines of its text protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

use comet_cpus::CpuList;
use tempfile::tempfile;

use crate::Result;
use crate::clock::{MILLISECOND_NS, SECOND_NS, now_ns, sleep_until};
use crate::launch::Running;
use crate::target::free_ports;

/// How long it may take to listen, and to send something that is expected.
const START_NS: u64 = 60 * SECOND_NS;
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two checks.
const LOOK_NS: u64 = 20 * MILLISECOND_NS;

/// A `nats-server`; killed when dropped.
pub(crate) struct NatsServer {
    pub address: SocketAddr,
    program: PathBuf,
    cpus: CpuList,
    arguments: Vec<String>,
    /// `None` while it is stopped.
    process: Option<Running>,
}

impl NatsServer {
    /// Starts `program`, which is searched for in PATH if it has no folder. Fails if it is not there, or does not
    /// listen in time.
    pub(crate) fn start(program: &Path, cpus: &CpuList) -> Result<Self> {
        Self::start_with(program, cpus, &[])
    }

    /// Like [`NatsServer::start`], with further `arguments`.
    pub(crate) fn start_with(program: &Path, cpus: &CpuList, arguments: &[&str]) -> Result<Self> {
        let program = find(program)?;
        let [address] = free_ports(Ipv4Addr::LOCALHOST)?;
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { address, program, cpus: cpus.clone(), arguments, process: None };
        server.restart()?;
        Ok(server)
    }

    /// Kills it.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again, at the same address and with the same files. Fails like the first start.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.stop();
        let mut command = Running::command(&self.cpus, &self.program)?;
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        command.args(["--addr", &host, "--port", &port]).args(&self.arguments);
        let mut process = Running::start(&mut command, Some(tempfile()?))?;
        let deadline_ns = now_ns() + START_NS;
        while TcpStream::connect(self.address).is_err() {
            process.ensure_runs()?;
            if now_ns() > deadline_ns {
                return Err(format!("nats-server does not listen\n{}", process.log_end()).into());
            }
            sleep_until(now_ns() + LOOK_NS);
        }
        self.process = Some(process);
        Ok(())
    }

    /// Opens a separate connection.
    pub(crate) fn connect(&self) -> Result<NatsClient> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = NatsClient { output: stream.try_clone()?, input: BufReader::new(stream) };
        client.output.write_all(b"CONNECT {\"verbose\":false}\r\n")?;
        client.sync()?;
        Ok(client)
    }
}

/// Finds the program in PATH, which is not searched when it is launched.
fn find(program: &Path) -> Result<PathBuf> {
    if program.components().count() > 1 {
        return Ok(program.to_owned());
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    let found =
        env::split_paths(&folders).map(|folder| folder.join(program)).find(|it| it.is_file());
    found.ok_or_else(|| format!("no {} in PATH: name it by --nats", program.display()).into())
}

/// A client that publishes, or reads its subscription.
pub(crate) struct NatsClient {
    output: TcpStream,
    input: BufReader<TcpStream>,
}

impl NatsClient {
    /// Waits until the server has handled everything before.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.output.write_all(b"PING\r\n")?;
        while self.line()?.ok_or("nats-server does not answer")? != "PONG" {}
        Ok(())
    }

    pub(crate) fn subscribe(&mut self, subject: &str) -> Result<()> {
        self.output.write_all(format!("SUB {subject} 1\r\n").as_bytes())?;
        self.sync()
    }

    /// Publishes all of `bodies` with one write.
    pub(crate) fn publish<'a>(
        &mut self,
        subject: &str,
        bodies: impl IntoIterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for body in bodies {
            bytes.extend_from_slice(format!("PUB {subject} {}\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(body);
            bytes.extend_from_slice(b"\r\n");
        }
        self.output.write_all(&bytes)
    }

    /// The body of the next message; `None` if there are no more.
    pub(crate) fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        while let Some(line) = self.line()? {
            let Some(head) = line.strip_prefix("MSG ") else { continue };
            let length = head.rsplit(' ').next().and_then(|length| length.parse::<usize>().ok());
            let mut body = vec![0; length.ok_or("a message without a length")? + 2];
            self.input.read_exact(&mut body)?;
            body.truncate(body.len() - 2);
            return Ok(Some(body));
        }
        Ok(None)
    }

    fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        match self.input.read_line(&mut line) {
            Ok(0) => Err("nats-server has ended the connection".into()),
            Ok(_) => Ok(Some(line.trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
