//! A real `redis-server` with an address of its own, for the tests with sessions in Redis.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::halt;
use crate::logic_process::own_address;
use crate::support::until;

/// The process ends when the value is dropped.
pub(crate) struct RedisServer {
    process: Child,
    address: SocketAddr,
}

impl RedisServer {
    /// `None`: `redis-server` is not installed. The test writes a line about it.
    pub(crate) fn start() -> Option<Self> {
        let address = own_address();
        match run(address) {
            Ok(process) => Some(Self { process, address }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("SKIPPED: redis-server is not installed");
                None
            }
            Err(error) => panic!("redis-server: {error}"),
        }
    }

    /// The settings of `comet logic` that keep its sessions here.
    pub(crate) fn sets(&self) -> [String; 2] {
        let address = format!("logic_server.redis=[\"redis://{}\"]", self.address);
        ["logic_server.store=\"redis\"".to_owned(), address]
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs a command whose answer must be OK.
    pub(crate) fn run_command(&self, command: &str) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let mut answer = [0; 5];
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"+OK\r\n", "{command}");
    }

    /// Stops the process, whose connections stay open, or continues it.
    pub(crate) fn pause(&self, is_paused: bool) {
        halt::pause(&self.process, is_paused);
    }

    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again at the same address, without its data.
    pub(crate) fn restart(&mut self) {
        self.process = run(self.address).unwrap();
    }
}

/// Starts it, and waits until it answers.
fn run(address: SocketAddr) -> std::io::Result<Child> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let process = Command::new("redis-server")
        .args(["--bind", &host, "--port", &port, "--save", "", "--appendonly", "no"])
        // Without a password Redis accepts connections from 127.0.0.1 only.
        .args(["--protected-mode", "no"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    until("redis-server to answer", || ping(address));
    Ok(process)
}

fn ping(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut answer = [0; 7];
    stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"+PONG\r\n"
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
