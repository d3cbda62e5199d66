//! Messages to the service manager, by the protocol of sd_notify(3). The socket does not block, so a manager that hangs
//! stops no thread. Without `NOTIFY_SOCKET` in the environment messages are dropped.

use std::convert::Infallible;
use std::env;
use std::ffi::OsStr;
use std::future::pending;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

/// A message to the service manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice<'a> {
    /// Everything is served. Also sent after a reload.
    Ready,
    /// The configuration is being read again; [`Notice::Ready`] follows.
    Reloading,
    /// The process drains and ends.
    Stopping {
        /// Longest time until its end. The manager kills it no earlier, even if its own limit is shorter.
        within: Duration,
    },
    /// One line for an operator who asks the manager for the status of the process.
    Status(&'a str),
    /// Another process becomes the service's main one.
    MainProcess(u32),
    /// The process lives. Sent repeatedly; see [`ServiceManager::watchdog`].
    Alive,
}

/// The service manager that started this process, if any.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The manager described by the environment. One that cannot be reached counts as none.
    #[must_use]
    pub fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| connect(&name));
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_meant = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| is_meant && *micros > 0);
        Self { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// Whether there is a manager to receive notices.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// How long the manager waits for [`Notice::Alive`] before it kills the process; `None`: it does not wait.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some())
    }

    /// Sends [`Notice::Alive`] as often as the manager requires, while the runtime of this task runs.
    pub async fn stay_alive(self) -> Infallible {
        let Some(timeout) = self.watchdog() else { return pending().await };
        let mut ticks = interval((timeout / 2).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.notify(Notice::Alive);
        }
    }

    /// Sends a notice. Never waits; if the manager's queue is full, the notice is lost.
    pub fn notify(&self, notice: Notice<'_>) {
        let Some((socket, address)) = &self.socket else { return };
        let message = match notice {
            Notice::Ready => "READY=1".to_owned(),
            Notice::Reloading => {
                let now = clock_gettime(ClockId::Monotonic);
                let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
                format!("RELOADING=1\nMONOTONIC_USEC={micros}")
            }
            Notice::Stopping { within } => {
                format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", within.as_micros())
            }
            Notice::Status(line) => format!("STATUS={}", line.replace('\n', " ")),
            Notice::MainProcess(id) => format!("MAINPID={id}"),
            Notice::Alive => "WATCHDOG=1".to_owned(),
        };
        // The manager kills a process that it does not hear from; there is nowhere else to report the failure.
        let _ = socket.send_to_addr(message.as_bytes(), address);
    }
}

/// `name` is a path, or an abstract name that begins with `@`.
fn connect(name: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}
