//! Health of the running program, and what its service manager is told.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use comet_client::{PushTarget, Pusher, Transport, op};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::logic_process::own_address;
use crate::process::{Running, Server, comet, line_with};
use crate::support::{Metrics, PATIENCE, get, until};

/// The place of a service manager.
pub(crate) struct Manager {
    socket: UnixDatagram,
    pub(crate) path: PathBuf,
}

impl Manager {
    pub(crate) fn new(name: &str) -> Self {
        // Names of sockets are short.
        let path = std::env::temp_dir().join(format!("comet-{}-{name}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    pub(crate) fn told(&self) -> String {
        let mut bytes = [0; 256];
        let length = self.socket.recv(&mut bytes).expect("the manager is told something");
        str::from_utf8(&bytes[..length]).unwrap().to_owned()
    }

    /// The next notice that is no status.
    fn told_of_life(&self) -> String {
        std::iter::repeat_with(|| self.told()).find(|told| !told.starts_with("STATUS=")).unwrap()
    }

    /// Reads what was sent so far.
    fn forget(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 256]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// No sign of life comes for so long.
    fn is_starved(&self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(left) =
            end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut bytes = [0; 256];
            if let Ok(length) = self.socket.recv(&mut bytes) {
                assert!(!bytes[..length].starts_with(b"WATCHDOG=1"), "there is a sign of life");
            }
        }
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// Waits for a notice.
    fn until(&self, begin: &str) {
        until(begin, || self.told().starts_with(begin));
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
    /// Those of a process whose name begins so.
    fn threads(pid: &str, begin: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
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
    let stopped = Stopped::threads(&server.pid(), "comet-core-1-");
    let silent = (503, "core 1 has not answered for 10s\n".to_owned());
    until("health to say so", || get(server.stat, "/healthz") == silent);
    line_with(&server.log, "core 1 has not answered for 10s");
    until("gRPC health to say so", || grpc_health(&server) == ServingStatus::NotServing);
    manager.forget();
    manager.socket.set_nonblocking(true).unwrap();
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

/// Long before health says so: it is the manager's time that counts.
#[test]
fn a_core_that_hangs_starves_a_watchdog_of_a_few_seconds() {
    let manager = Manager::new("starve.notify");
    let path = manager.path.to_str().unwrap();
    let environment = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "6000000")];
    let server = Server::start_in(&environment, &[], &[]);
    manager.until("WATCHDOG=1");
    let stopped = Stopped::threads(&server.pid(), "comet-core-1-");
    manager.forget();
    // Fed once a second, until the core has been silent for half of the time, which is three. Health waits for ten.
    manager.socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let (mut fed, mut bytes) = (0, [0; 256]);
    while let Ok(length) = manager.socket.recv(&mut bytes) {
        fed += usize::from(bytes[..length].starts_with(b"WATCHDOG=1"));
    }
    assert!(fed <= 5, "fed {fed} times");
    manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(stopped);
    manager.until("WATCHDOG=1");
}

/// Clients come, stay and are pushed to. Nothing tells the service manager that all is well.
#[test]
fn data_cores_go_on_while_the_control_thread_hangs() {
    let manager = Manager::new("control.notify");
    let path = manager.path.to_str().unwrap();
    let environment = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "2000000")];
    let frames = own_address();
    let set = format!("push.frames=[\"{frames}\"]");
    let server = Server::start_in(&environment, &[], &[&set, "push.timeout=\"20s\""]);
    let mut live = server.live(Transport::Tcp, "41");
    let mut pusher = Pusher::tcp(frames, PATIENCE).unwrap();
    manager.until("WATCHDOG=1");
    let stopped = Stopped::threads(&server.pid(), "comet-control");
    manager.forget();
    for number in 0..20_u8 {
        let mut newer = server.live(Transport::WebSocket, "42");
        let ledger = pusher.push(PushTarget::All, 5, &[number]).unwrap().unwrap();
        assert_eq!((ledger.matched, ledger.queued), (2, 2), "{ledger:?}");
        for client in [&mut live, &mut newer] {
            assert_eq!(client.recv().body, [number]);
            assert_eq!(client.ask(op::HEARTBEAT, 1, b"").operation, op::HEARTBEAT_REPLY);
        }
        drop(newer);
        until("it to be gone", || {
            let ledger = pusher.push(PushTarget::User(42), 5, b"").unwrap().unwrap();
            ledger.absent == 1
        });
    }
    manager.is_starved(Duration::from_secs(3));
    drop(stopped);
    manager.until("WATCHDOG=1");
    until("health to be well", || get(server.stat, "/healthz").0 == 200);
    Metrics::read(server.stat).assert_balanced();
}

#[test]
fn the_service_manager_is_told_of_reload_and_end() {
    let manager = Manager::new("phases.notify");
    let environment = [("NOTIFY_SOCKET", manager.path.to_str().unwrap())];
    let server = Server::start_in(&environment, &[], &["server.drain_timeout=\"70s\""]);
    assert_eq!(manager.told_of_life(), "READY=1");
    server.signal(Signal::HUP);
    let reloading = manager.told_of_life();
    let since_boot = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload");
    assert!(since_boot.parse::<u64>().unwrap() > 0, "{reloading}");
    assert_eq!(manager.told_of_life(), "READY=1");
    server.signal(Signal::TERM);
    // The drain, and what may come after it: longer than TimeoutStopSec= of the unit.
    assert_eq!(manager.told_of_life(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=80000000");
    assert_eq!(server.end().0, Some(0));
}

/// The manager kills a process at the end of that time. No client has got its close notice before the delay is over.
#[test]
fn the_service_manager_is_told_of_a_drain_with_its_delay() {
    let manager = Manager::new("delay.notify");
    let environment = [("NOTIFY_SOCKET", manager.path.to_str().unwrap())];
    let sets = ["server.drain_delay=\"50s\"", "server.drain_timeout=\"70s\""];
    let server = Server::start_in(&environment, &[], &sets);
    manager.until("READY=1");
    server.signal(Signal::TERM);
    assert_eq!(manager.told_of_life(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=130000000");
    let draining = "STATUS=draining, connections left: 0, cut off in ";
    let status = std::iter::repeat_with(|| manager.told()).find(|told| told.starts_with(draining));
    let status = status.unwrap();
    let left = status.strip_prefix(draining).and_then(|rest| rest.strip_suffix(" s"));
    let left: u64 = left.and_then(|seconds| seconds.parse().ok()).expect("a time");
    assert!((71..=120).contains(&left), "{status}");
    // Again: it ends at once.
    server.signal(Signal::TERM);
    assert_eq!(server.end().0, Some(143));
}

#[test]
fn the_service_manager_is_shown_the_clients_and_the_progress_of_a_drain() {
    let manager = Manager::new("status.notify");
    let environment = [("NOTIFY_SOCKET", manager.path.to_str().unwrap())];
    let server = Server::start_in(&environment, &[], &["protocol.linger=\"1h\""]);
    let peer = server.live(Transport::Tcp, "1");
    manager.until("STATUS=connections: 1, authenticated: 1");
    server.signal(Signal::TERM);
    // The client does not leave.
    manager.until("STATUS=draining, connections left: 1, cut off in ");
    drop(peer);
    assert_eq!(server.end().0, Some(0));
}

/// `comet logic` has one thread, which tells.
#[test]
fn the_service_manager_is_told_of_the_life_of_logic() {
    let manager = Manager::new("logic.notify");
    let sets = ["logic_server.grpc", "logic_server.http", "logic_server.stat"];
    let sets = sets.map(|key| format!("{key}=[\"127.0.0.1:0\"]"));
    // Nobody listens there.
    let comets = "logic_server.comets=[\"a=127.0.0.1:1\"]";
    let sets = sets.iter().map(String::as_str).chain([comets]).flat_map(|set| ["--set", set]);
    let mut command = comet(&[&["logic"], &sets.collect::<Vec<_>>()[..]].concat());
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "2000000");
    let (logic, _log) = Running::start(command);
    // From two threads, so in any order.
    let mut awaited = vec!["READY=1", "STATUS=0 of 1 comets take clients", "WATCHDOG=1"];
    until("READY, STATUS and WATCHDOG", || {
        let told = manager.told();
        awaited.retain(|notice| told != *notice);
        awaited.is_empty()
    });
    let stopped = Stopped::threads(&logic.0.id().to_string(), "comet-logic");
    manager.forget();
    manager.is_starved(Duration::from_secs(3));
    drop(stopped);
    manager.until("WATCHDOG=1");
    logic.signal(Signal::HUP);
    manager.until("RELOADING=1\nMONOTONIC_USEC=");
    manager.until("READY=1");
    logic.signal(Signal::TERM);
    manager.until("STOPPING=1\nEXTEND_TIMEOUT_USEC=10000000");
    assert_eq!(logic.end(), Some(0));
}

/// 1.6 is "OK" with room to spare; a line that is taken out of a unit raises it.
#[test]
fn the_units_expose_little() {
    for unit in ["comet.service", "comet-logic.service"] {
        let path = format!("{}/packaging/{unit}", env!("CARGO_MANIFEST_DIR"));
        let analyze = |arguments: &[&str]| {
            Command::new("systemd-analyze").args(arguments).arg(&path).output()
        };
        let Ok(security) = analyze(&["security", "--offline=true", "--threshold=16"]) else {
            eprintln!("SKIPPED: there is no systemd-analyze, so no unit is judged");
            return;
        };
        let text = String::from_utf8_lossy(&security.stdout);
        let overall = text.lines().find(|line| line.contains("Overall exposure level"));
        assert!(security.status.success(), "{unit}: {overall:?}");
        overall.unwrap_or_else(|| panic!("{unit}: {text}"));
    }
}
