//! What starting a thread of servers takes: addresses, CPUs, a runtime, and what may go wrong with them.

use std::error::Error;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::{fmt, io};

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::Builder;

use crate::caller::root_cause;
use crate::logic::BadAddress;

/// Why the control thread did not start.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened at.
    Listen {
        /// Key of the configuration that names the address.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The trace log's file cannot be opened.
    TraceLog {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// An address of a logic service is none.
    LogicAddress {
        /// What stands there.
        address: String,
        /// What is wrong with it.
        error: tonic::transport::Error,
    },
    /// An address of a comet that `comet logic` serves is none.
    CometAddress {
        /// What stands there.
        address: String,
        /// What is wrong with it.
        error: tonic::transport::Error,
    },
    /// The thread cannot run on these CPUs.
    Pin {
        /// The CPUs asked for.
        cpus: Vec<usize>,
        /// What the system said.
        error: io::Error,
    },
    /// The thread or its runtime could not be made.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { setting, address, error } => {
                write!(f, "{setting}: cannot listen at {address}: {error}")
            }
            Self::TraceLog { path, error } => {
                write!(f, "white_list.file: cannot write {}: {error}", path.display())
            }
            Self::LogicAddress { address, error } => {
                write!(f, "logic.addrs: {address:?} is no address: {}", root_cause(error))
            }
            Self::CometAddress { address, error } => {
                write!(f, "logic_server.comets: {address:?} is no address: {}", root_cause(error))
            }
            Self::Pin { cpus, error } => {
                write!(f, "cannot run the control thread on CPUs {cpus:?}: {error}")
            }
            Self::Thread(error) => write!(f, "cannot start the control thread: {error}"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Listen { error, .. }
            | Self::TraceLog { error, .. }
            | Self::Pin { error, .. }
            | Self::Thread(error) => Some(error),
            Self::LogicAddress { error, .. } | Self::CometAddress { error, .. } => Some(error),
        }
    }
}

impl From<BadAddress> for StartError {
    fn from(BadAddress { address, error }: BadAddress) -> Self {
        Self::LogicAddress { address, error }
    }
}

/// Starts a thread of its own runtime, on `cpus`, that runs what `serve` makes there to its end. Returns
/// once that is made.
pub(crate) fn spawn<S, F>(
    name: &str,
    cpus: Vec<usize>,
    serve: S,
) -> Result<JoinHandle<()>, StartError>
where
    S: FnOnce() -> Result<F, StartError> + Send + 'static,
    F: Future<Output = ()>,
{
    let (started, outcome) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || run(cpus, serve, &started))
        .map_err(StartError::Thread)?;
    outcome.recv().expect("the thread says how it started before it ends")?;
    Ok(thread)
}

/// The thread from its first to its last moment.
fn run<F: Future<Output = ()>>(
    cpus: Vec<usize>,
    serve: impl FnOnce() -> Result<F, StartError>,
    started: &mpsc::SyncSender<Result<(), StartError>>,
) {
    let report = |outcome| started.send(outcome).expect("whoever starts the thread waits for this");
    if let Err(error) = pin(&cpus) {
        return report(Err(StartError::Pin { cpus, error }));
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Err(StartError::Thread(error))),
    };
    let _entered = runtime.enter();
    match serve() {
        Ok(serving) => {
            report(Ok(()));
            runtime.block_on(serving);
        }
        Err(error) => report(Err(error)),
    }
}

/// Binds this thread to `cpus`, or leaves it alone if there are none.
pub(crate) fn pin(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::from(rustix::io::Errno::INVAL));
        }
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

pub(crate) fn listen(
    setting: &'static str,
    addresses: &[SocketAddr],
) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), StartError> {
    let open = |address: SocketAddr| {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    addresses
        .iter()
        .map(|&address| {
            open(address).map_err(|error| StartError::Listen { setting, address, error })
        })
        .collect()
}

/// Those of `addresses` that other machines may reach.
pub(crate) fn exposed(addresses: &[SocketAddr]) -> impl Iterator<Item = &SocketAddr> {
    addresses.iter().filter(|address| !address.ip().to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_exposed() {
        let addresses = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
        let beyond = ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1"];
        let parsed: Vec<SocketAddr> =
            addresses.iter().chain(&beyond).map(|address| address.parse().unwrap()).collect();
        assert_eq!(exposed(&parsed).map(ToString::to_string).collect::<Vec<_>>(), beyond);
    }
}
