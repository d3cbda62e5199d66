//! A real `redis-server` on a free loopback port, which runs until the value is dropped.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
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
    child: Option<Child>,
}

impl Server {
    /// Starts a server that answers; `None` if this machine has no `redis-server`.
    pub(crate) async fn start() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if let Err(error) = Command::new("redis-server").arg("--version").output() {
            eprintln!("SKIPPED: no redis-server ({error})");
            return None;
        }
        loop {
            let turn = process::id()
                .wrapping_mul(7_919)
                .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(101));
            let port = PORTS.start + turn % PORTS.len() as u32;
            let port = u16::try_from(port).expect("the range is of ports");
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
                continue;
            }
            let directory = env::temp_dir().join(format!("comet-router-{}-{port}", process::id()));
            fs::create_dir_all(&directory).unwrap();
            let mut server = Self { port, directory, child: None };
            if server.run().await {
                return Some(server);
            }
        }
    }

    /// Starts the process and waits until it answers. Returns false if another process has the
    /// port.
    async fn run(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"])
            .arg(&self.directory)
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

    /// A connection of the test's own.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
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
