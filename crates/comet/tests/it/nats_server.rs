//! A real `nats-server` with an address of its own, for the tests of several hosts.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::halt;
use crate::logic_process::own_address;
use crate::scratch;
use crate::support::{PATIENCE, until};

/// The process ends when the value is dropped.
pub(crate) struct NatsServer {
    process: Child,
    address: SocketAddr,
    arguments: Vec<String>,
}

impl NatsServer {
    /// `None`: `nats-server` is not installed. The test writes a line about it.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        let address = own_address();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        match run(address, &arguments) {
            Ok(process) => Some(Self { process, address, arguments }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("SKIPPED: nats-server is not installed");
                None
            }
            Err(error) => panic!("nats-server: {error}"),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops the process, whose connections stay open, or continues it.
    pub(crate) fn pause(&self, is_paused: bool) {
        halt::pause(&self.process, is_paused);
    }

    /// Starts it again at the same address, with other arguments.
    pub(crate) fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
        self.restart();
    }

    /// Starts it again at the same address.
    pub(crate) fn restart(&mut self) {
        self.process = run(self.address, &self.arguments).unwrap();
    }

    /// A client that speaks the protocol of NATS itself.
    pub(crate) fn program(&self) -> Program {
        Program::connect(self.address)
    }
}

/// Starts it, and waits until it answers.
fn run(address: SocketAddr, arguments: &[String]) -> std::io::Result<Child> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    // Hosts that a test stops for a while must not be disconnected as slow consumers.
    let config = scratch::folder().join(format!("nats-{host}-{port}.conf"));
    fs::write(&config, "write_deadline: \"5m\"\n")?;
    let process = Command::new("nats-server")
        .arg("--config")
        .arg(config)
        .args(["--addr", &host, "--port", &port])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    until("nats-server to listen", || TcpStream::connect(address).is_ok());
    Ok(process)
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client of NATS that is not comet.
pub(crate) struct Program {
    stream: BufReader<TcpStream>,
}

impl Program {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut program = Self { stream: BufReader::new(stream) };
        assert!(program.line().starts_with("INFO "));
        program.say("CONNECT {\"verbose\":false,\"headers\":true}\r\nPING\r\n");
        assert_eq!(program.line(), "PONG");
        program
    }

    /// Publishes, and waits until the server has the message.
    pub(crate) fn publish(&mut self, subject: &str, headers: &[(&str, &str)], body: &str) {
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("NATS/1.0\r\n{lines}\r\n");
        let (head_bytes, all) = (head.len(), head.len() + body.len());
        self.say(&format!("HPUB {subject} {head_bytes} {all}\r\n{head}{body}\r\nPING\r\n"));
        assert_eq!(self.line(), "PONG");
    }

    /// Publishes the numbers below `numbers` without a pause, and waits until the server has them.
    pub(crate) fn flood(&mut self, subject: &str, numbers: u64) {
        for first in (0..numbers).step_by(1_000) {
            let publish = |number: u64| {
                let body = number.to_string();
                format!("PUB {subject} {}\r\n{body}\r\n", body.len())
            };
            let batch: String = (first..numbers.min(first + 1_000)).map(publish).collect();
            self.say(&batch);
        }
        self.say("PING\r\n");
        assert_eq!(self.line(), "PONG");
    }

    /// Publishes without headers, and returns the first answer.
    pub(crate) fn request(&mut self, subject: &str, body: &str) -> String {
        let bytes = body.len();
        self.say(&format!("SUB answers 1\r\nPUB {subject} answers {bytes}\r\n{body}\r\n"));
        let answer = self.line();
        assert!(answer.starts_with("MSG answers 1"), "{answer}");
        self.line()
    }

    fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            // The server checks with a ping that the client is alive.
            if line.trim_end() != "PING" {
                return line.trim_end().to_owned();
            }
            self.say("PONG\r\n");
        }
    }
}
