//! Health of the running program, and what its service manager is told.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::process::{Server, line_with};
use crate::support::{PATIENCE, get, until};

/// The place of a service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(name: &str) -> Self {
        // Names of sockets are short.
        let path = std::env::temp_dir().join(format!("comet-{}-{name}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    fn told(&self) -> String {
        let mut bytes = [0; 256];
        let length = self.socket.recv(&mut bytes).expect("the manager is told something");
        str::from_utf8(&bytes[..length]).unwrap().to_owned()
    }

    /// Waits for a notice.
    fn until(&self, begin: &str) {
        while !self.told().starts_with(begin) {}
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        fs::remove_file(&self.path).unwrap();
    }
}

/// Threads that take no step until this is dropped, by the thread that made it.
struct Stopped(Vec<Pid>);

impl Stopped {
    /// Those whose name begins so.
    fn threads(server: &Server, begin: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        let is_meant = |task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with(begin))
        };
        let tasks = tasks.map(|task| task.unwrap().path()).filter(is_meant);
        let ids = tasks.map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap());
        let stopped = Self(ids.map(Pid::from_raw).collect());
        assert!(!stopped.0.is_empty(), "no thread {begin}");
        for id in &stopped.0 {
            ptrace::seize(*id, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(*id).unwrap();
            waitpid(*id, Some(WaitPidFlag::__WALL)).unwrap();
        }
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for id in &self.0 {
            ptrace::detach(*id, None).unwrap();
        }
    }
}

fn grpc_health(server: &Server) -> ServingStatus {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let address = format!("http://{}", server.grpc);
        let channel = tonic::transport::Endpoint::from_shared(address).unwrap();
        let mut client = HealthClient::new(channel.connect().await.unwrap());
        let request = HealthCheckRequest { service: "comet.v1.Push".to_owned() };
        client.check(request).await.unwrap().into_inner().status()
    })
}

#[test]
fn a_core_that_hangs_is_named_and_the_service_manager_not_told_that_all_is_well() {
    let manager = Manager::new("hang.notify");
    let path = manager.path.to_str().unwrap();
    let environment = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "2000000")];
    let server = Server::start_in(&environment, &[], &[]);
    manager.until("READY=1");
    // Idle, they are woken to show that they live.
    manager.until("WATCHDOG=1");
    let stopped = Stopped::threads(&server, "comet-core-1-");
    let silent = (503, "core 1 has not answered for 10s\n".to_owned());
    until("health to say so", || get(server.stat, "/healthz") == silent);
    line_with(&server.log, "core 1 has not answered for 10s");
    until("gRPC health to say so", || grpc_health(&server) == ServingStatus::NotServing);
    // What is in the socket was sent before.
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 256]).is_ok() {}
    for _ in 0..3 {
        assert_eq!(get(server.stat, "/healthz"), silent);
    }
    manager.socket.recv(&mut [0; 256]).expect_err("nothing is told");
    manager.socket.set_nonblocking(false).unwrap();
    drop(stopped);
    until("health to be well", || get(server.stat, "/healthz").0 == 200);
    until("gRPC health to be well", || grpc_health(&server) == ServingStatus::Serving);
    manager.until("WATCHDOG=1");
}

#[test]
fn the_service_manager_is_told_of_reload_and_end() {
    let manager = Manager::new("phases.notify");
    let server = Server::start_in(&[("NOTIFY_SOCKET", manager.path.to_str().unwrap())], &[], &[]);
    assert_eq!(manager.told(), "READY=1");
    server.signal(Signal::HUP);
    assert!(manager.told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(manager.told(), "READY=1");
    server.signal(Signal::TERM);
    assert_eq!(manager.told(), "STOPPING=1");
    assert_eq!(server.end().0, Some(0));
}
