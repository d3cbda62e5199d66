//! A real `redis-server` at an address of its own, for the tests of sessions that are kept there.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::halt;
use crate::logic_process::own_address;
use crate::support::until;

/// Ends with the value.
pub(crate) struct RedisServer {
    process: Child,
    address: SocketAddr,
}

impl RedisServer {
    /// `None`, and a line in the log of the test, where there is no `redis-server`.
    pub(crate) fn start() -> Option<Self> {
        let address = own_address();
        match run(address) {
            Ok(process) => Some(Self { process, address }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("SKIPPED: there is no redis-server, so nothing is tested with one");
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

    /// Runs a command that is answered with OK.
    pub(crate) fn run_command(&self, command: &str) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let mut answer = [0; 5];
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"+OK\r\n", "{command}");
    }

    /// Lets the process run no more, with all its connections open, or run again.
    pub(crate) fn pause(&self, is_paused: bool) {
        halt::pause(&self.process, is_paused);
    }

    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Begins anew at the same address, without what it knew.
    pub(crate) fn restart(&mut self) {
        self.process = run(self.address).unwrap();
    }
}

/// Runs it, and waits until it answers.
fn run(address: SocketAddr) -> std::io::Result<Child> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let process = Command::new("redis-server")
        .args(["--bind", &host, "--port", &port, "--save", "", "--appendonly", "no"])
        // Without a password it takes only who comes from 127.0.0.1.
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
        // It may have been stopped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
