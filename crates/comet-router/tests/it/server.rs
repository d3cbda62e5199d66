//! A real `redis-server` on a free loopback port, which runs until the value is dropped.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, process};

use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::time::{sleep, timeout};

/// The time limit for anything that must happen, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The ports to try. They are below the ephemeral ports, which the kernel gives to tests that run
/// at the same time.
const PORTS: std::ops::Range<u32> = 12_000..32_000;

/// A server without persistence; killed, and its directory removed, when dropped.
pub(crate) struct Server {
    port: u16,
    directory: PathBuf,
    /// Arguments beside those of every server.
    more: Vec<String>,
    child: Option<Child>,
}

/// A port below the ephemeral ones that nobody uses.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let turn = process::id()
            .wrapping_mul(7_919)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(101));
        let port = PORTS.start + turn % PORTS.len() as u32;
        let port = u16::try_from(port).expect("the range is of ports");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

impl Server {
    /// Starts a server that answers; `None` if this machine has no `redis-server`.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(|_| Vec::new()).await
    }

    /// The same with more arguments, which may name files in a directory of the server's own.
    pub(crate) async fn start_with(more: impl Fn(&Path) -> Vec<String>) -> Option<Self> {
        if let Err(error) = Command::new("redis-server").arg("--version").output() {
            eprintln!("SKIPPED: no redis-server ({error})");
            return None;
        }
        loop {
            let port = free_port();
            let directory = env::temp_dir().join(format!("comet-router-{}-{port}", process::id()));
            fs::create_dir_all(&directory).unwrap();
            let more = more(&directory);
            let mut server = Self { port, directory, more, child: None };
            if server.run().await {
                return Some(server);
            }
        }
    }

    /// Starts the process and waits until it answers. Returns false if another process has the
    /// port.
    async fn run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        // A file of settings comes first.
        let is_file = |argument: &&String| argument.ends_with(".conf");
        command.args(self.more.iter().filter(is_file));
        let child = command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            // A replica waits for no others.
            .args(["--repl-diskless-sync-delay", "0", "--dir"])
            .arg(&self.directory)
            .args(self.more.iter().filter(|argument| !is_file(argument)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let id = child.id();
        self.child = Some(child);
        let ready = async {
            loop {
                if self.child.as_mut().expect("started above").try_wait().unwrap().is_some() {
                    return false;
                }
                if self.process_id().await == Some(id) {
                    return true;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, ready).await.expect("redis-server answers or gives up")
    }

    /// The id of the process that answers at the port.
    async fn process_id(&self) -> Option<u32> {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        redis::cmd("PING").query_async::<String>(&mut connection).await.ok()?;
        let info: redis::InfoDict =
            redis::cmd("INFO").arg("server").query_async(&mut connection).await.ok()?;
        info.get("process_id")
    }

    /// Kills the process; its data is lost.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts the process again at the same port, without data.
    pub(crate) async fn restart(&mut self) {
        let again = async { while !self.run().await {} };
        timeout(PATIENCE, again).await.expect("the port is free again");
    }

    /// Stops the process without ending it: the kernel accepts connections at its port, and nothing
    /// answers.
    pub(crate) fn freeze(&self) {
        let id = self.signal(Signal::STOP);
        waitid(WaitId::Pid(id), WaitIdOptions::STOPPED).unwrap();
    }

    /// Continues the process after [`Server::freeze`].
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) -> Pid {
        let id = Pid::from_child(self.child.as_ref().expect("it runs"));
        kill_process(id, signal).unwrap();
        id
    }

    /// The address in the form of the store's errors.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Runs a command, written as words.
    pub(crate) async fn run_command(&self, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word.trim_matches('"'));
        }
        command.exec_async(&mut self.connection().await).await.unwrap();
    }

    pub(crate) async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut command = redis::cmd("KEYS");
        command.arg(pattern);
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    /// A connection of the test's own.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.unwrap()
    }

    /// The same with a server that may end connections, because it changes its role.
    pub(crate) async fn try_connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
