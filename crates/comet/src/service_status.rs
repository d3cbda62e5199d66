//! The status that the service manager shows of the running server: its clients, and the progress of a drain.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use comet_control::{Census, CensusTaker};
use comet_ops::{Notice, ServiceManager};

/// The name of the thread.
const THREAD: &str = "comet-status";

/// How often the clients are counted.
const PERIOD: Duration = Duration::from_secs(10);
/// How often they are counted in a drain.
const DRAIN_PERIOD: Duration = Duration::from_secs(1);

/// Keeps the status up to date until it is dropped.
#[derive(Debug)]
pub(crate) struct ServiceStatus(Sender<Instant>);

impl ServiceStatus {
    /// Starts, on a thread of its own, because a core that hangs holds up a count for a second. Without a service
    /// manager there is no thread.
    ///
    /// # Errors
    /// If the thread cannot be made.
    pub(crate) fn start(clients: CensusTaker) -> io::Result<Self> {
        let manager = ServiceManager::from_environment();
        let (drain, drains) = channel();
        if manager.is_there() {
            let run = move || keep(&manager, &clients, &drains);
            thread::Builder::new().name(THREAD.to_owned()).spawn(run)?;
        }
        Ok(Self(drain))
    }

    /// Notes that the server drains, until `end` at the latest.
    pub(crate) fn drains(&self, end: Instant) {
        // Fails if there is no service manager.
        let _ = self.0.send(end);
    }
}

fn keep(manager: &ServiceManager, clients: &CensusTaker, drains: &Receiver<Instant>) {
    let mut end = None;
    let mut told = String::new();
    loop {
        if let Some(census) = clients.take() {
            let status = describe(
                census,
                end.map(|end: Instant| end.saturating_duration_since(Instant::now())),
            );
            if status != told {
                manager.notify(Notice::Status(&status));
                told = status;
            }
        }
        let period = if end.is_some() { DRAIN_PERIOD } else { PERIOD };
        match drains.recv_timeout(period) {
            Ok(drain) => end = Some(drain),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// `left` is the time left of a drain.
fn describe(census: Census, left: Option<Duration>) -> String {
    let Census { connections, live, .. } = census;
    match left {
        None => format!("connections: {connections}, authenticated: {live}"),
        Some(left) => {
            format!("draining, connections left: {connections}, cut off in {} s", left.as_secs())
        }
    }
}
