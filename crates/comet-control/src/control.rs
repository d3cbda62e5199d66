//! The handle of the control thread: start it, tell it where the process is in its life, end it.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use comet_core::{Limits, Message, Report};
use comet_mesh::{Inbox, Sender};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::api::{Api, Bodies, Node};
use crate::caller::root_cause;
use crate::grpc::{Answers, PushService};
use crate::hub::Hub;
use crate::logic::{BadAddress, Logic, LogicOptions};
use crate::monitor::Monitor;
use crate::pushes::{Bounds, Pushes};
use crate::reach::Reach;
use crate::serve::{Phase, Servers};
use crate::wake::ControlWake;
use crate::white_log::WhiteLog;

/// What the longest request may hold besides its body and keys.
const REQUEST_SLACK: usize = 1_024;

/// Bytes a key takes in a request that names as many as it may; longer ones leave room for fewer.
const KEY_BYTES: usize = 256;

/// How the control thread is to be set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the push API (`push.grpc`); port 0 takes a free one.
    pub grpc: Vec<SocketAddr>,
    /// Addresses of goim's HTTP push API (`push.http`); port 0 takes a free one.
    pub http: Vec<SocketAddr>,
    /// Addresses of health, metrics and stats (`monitor.stat`); port 0 takes a free one.
    pub stat: Vec<SocketAddr>,
    /// Addresses of profiles and of what may be changed alive (`monitor.pprof`); port 0 takes a free one.
    pub debug: Vec<SocketAddr>,
    /// Where logic is. `None`: shards ask their own, and no report may ask for another.
    pub logic: Option<LogicOptions>,
    /// What the HTTP push API says of this server.
    pub node: Node,
    /// Longest body of a pushed frame, bytes.
    pub frame_max: usize,
    /// Most keys, users, or rooms asked about, in one call.
    pub keys_max: usize,
    /// How long a call waits for the shards before its caller is told so.
    pub call_timeout: Duration,
    /// CPUs the thread runs on; empty leaves it where the process may run.
    pub cpus: Vec<usize>,
    /// Name of this server in metrics, stats and answers.
    pub server_id: String,
    /// Version of this server in metrics, stats and answers.
    pub version: &'static str,
    /// What the shards are started with.
    pub limits: Arc<Limits>,
    /// The file of the white log (`white_list.file`); `None`: there is none.
    pub white_log: Option<PathBuf>,
    /// The zero of the shards' clock.
    pub epoch: Instant,
}

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
    /// The white log's file cannot be opened.
    WhiteLog {
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
            Self::WhiteLog { path, error } => {
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
            | Self::WhiteLog { error, .. }
            | Self::Pin { error, .. }
            | Self::Thread(error) => Some(error),
            Self::LogicAddress { error, .. } | Self::CometAddress { error, .. } => Some(error),
        }
    }
}

/// How a drain goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Goodbye {
    /// How long clients may take to leave.
    pub limit: Duration,
    /// Time the goodbyes are spread over.
    pub over: Duration,
    /// Each client is told to wait a random time up to this before it comes again; zero: nothing.
    pub retry_after: Duration,
}

impl From<BadAddress> for StartError {
    fn from(BadAddress { address, error }: BadAddress) -> Self {
        Self::LogicAddress { address, error }
    }
}

/// How far the shards got with saying goodbye.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drained {
    /// Shards whose last connection is gone.
    pub done: usize,
    /// All shards.
    pub shards: usize,
}

/// The control thread. Dropping it without [`Control::stop`] ends the thread, too, but does not wait.
pub struct Control {
    grpc: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    stat: Vec<SocketAddr>,
    debug: Vec<SocketAddr>,
    hub: Arc<Hub>,
    phase: watch::Sender<Phase>,
    epoch: Instant,
    thread: JoinHandle<()>,
}

impl Control {
    /// Listens at every address and starts the thread. It serves from here on; health says no until
    /// [`Control::set_ready`].
    ///
    /// `wake` is what the inbox of `reports` was made with; `shards` are the inboxes of all shards, in
    /// their order.
    ///
    /// # Errors
    /// If an address is taken or none, the CPUs do not exist, or the thread cannot be made.
    ///
    /// # Panics
    /// If there is no shard, or more than a [`comet_core::ShardId`] can number.
    pub fn start(
        options: Options,
        wake: Arc<ControlWake>,
        shards: Vec<Sender<Message>>,
        reports: Inbox<Report>,
    ) -> Result<Self, StartError> {
        let (grpc, grpc_addrs) = listen("push.grpc", &options.grpc)?;
        let (http, http_addrs) = listen("push.http", &options.http)?;
        let (stat, stat_addrs) = listen("monitor.stat", &options.stat)?;
        let (debug, debug_addrs) = listen("monitor.pprof", &options.debug)?;
        for (setting, addresses) in [("push.grpc", &grpc_addrs), ("push.http", &http_addrs)] {
            for address in exposed(addresses) {
                log::warn!(
                    "{setting}: {address} is not loopback, and nobody is asked who they are: \
                     whoever reaches it may push"
                );
            }
        }
        for address in exposed(&debug_addrs) {
            log::warn!(
                "monitor.pprof: {address} is not loopback, and nobody is asked who they are: whoever \
                 reaches it may profile this process and change its log level and white list"
            );
        }
        let white_log = options.white_log.map(|path| {
            WhiteLog::open(path.clone(), options.epoch)
                .map_err(|error| StartError::WhiteLog { path, error })
        });
        let hub = Arc::new(Hub::new(shards, wake, options.limits, white_log.transpose()?));
        let logic = match &options.logic {
            Some(logic) => Some(Logic::new(logic, options.server_id.clone(), Arc::clone(&hub))?),
            None => None,
        };
        let logic = logic.map(Arc::new);
        let (phase, phases) = watch::channel(Phase::Starting);
        let bounds = Bounds {
            frame_max: options.frame_max,
            keys_max: options.keys_max,
            timeout: options.call_timeout,
        };
        let answers = Arc::new(Answers::default());
        let pushes = Arc::new(Pushes::new(Arc::clone(&hub), bounds));
        let api = Api {
            reach: Reach::Shards(Arc::clone(&pushes)),
            answers: Arc::clone(&answers),
            bodies: Bodies::new(bounds),
            node: options.node,
            server_id: options.server_id.clone(),
            version: options.version,
            grpc: grpc_addrs.clone(),
            phase: phases.clone(),
        };
        let servers = Servers {
            grpc,
            http,
            stat,
            debug,
            hub: Arc::clone(&hub),
            logic: logic.clone(),
            push: PushService { pushes, answers: Arc::clone(&answers) },
            request_max: options
                .keys_max
                .saturating_mul(KEY_BYTES)
                .saturating_add(options.frame_max)
                .saturating_add(REQUEST_SLACK),
            api,
            monitor: Monitor {
                hub: Arc::clone(&hub),
                logic,
                answers,
                server_id: options.server_id,
                version: options.version,
                started: Instant::now(),
                phase: phases.clone(),
            },
            phase: phases,
        };
        let (started, outcome) = mpsc::sync_channel(1);
        let cpus = options.cpus;
        let thread = thread::Builder::new()
            .name("comet-control".to_owned())
            .spawn(move || run(cpus, servers, reports, &started))
            .map_err(StartError::Thread)?;
        outcome.recv().expect("the thread says how it started before it ends")?;
        Ok(Self {
            grpc: grpc_addrs,
            http: http_addrs,
            stat: stat_addrs,
            debug: debug_addrs,
            hub,
            phase,
            epoch: options.epoch,
            thread,
        })
    }

    /// Where the push API is, with real ports, in the order of [`Options::grpc`].
    #[must_use]
    pub fn grpc_addrs(&self) -> &[SocketAddr] {
        &self.grpc
    }

    /// Where the HTTP push API is, with real ports, in the order of [`Options::http`].
    #[must_use]
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where health and metrics are, with real ports, in the order of [`Options::stat`].
    #[must_use]
    pub fn stat_addrs(&self) -> &[SocketAddr] {
        &self.stat
    }

    /// Where profiles are, with real ports, in the order of [`Options::debug`].
    #[must_use]
    pub fn debug_addrs(&self) -> &[SocketAddr] {
        &self.debug
    }

    /// Tells every shard the bounds that hold from now on; none is waited for.
    pub fn configure(&self, limits: Limits) {
        self.hub.configure(|_| limits);
    }

    /// Lets the white log be written to `path` from now on, or to nothing. Where that is the file's path
    /// already it is opened again under its name, for whoever has moved it away.
    ///
    /// # Errors
    /// If another file cannot be opened; then the old one is kept.
    pub fn set_white_log(&self, path: Option<PathBuf>) -> io::Result<()> {
        self.hub.set_white_log(path, self.epoch)
    }

    /// Says that every listener for clients is bound: `/healthz` answers 200 from here on, and gRPC
    /// health SERVING. Without effect once draining.
    pub fn set_ready(&self) {
        self.move_on(Phase::Ready);
    }

    /// Turns health off, tells every shard to say goodbye to its clients, and blocks the calling
    /// thread until all of them are gone or the limit of `goodbye` has passed. Pushes are still taken
    /// meanwhile: clients that have not left get them.
    #[must_use]
    pub fn drain(&self, goodbye: Goodbye) -> Drained {
        self.move_on(Phase::Draining);
        Drained { done: self.hub.drain(goodbye), shards: usize::from(self.hub.shards()) }
    }

    /// Ends the servers and waits for the thread; calls under way get a second to end.
    ///
    /// # Panics
    /// If the thread panicked.
    pub fn stop(self) {
        self.move_on(Phase::Stopped);
        self.thread.join().expect("the control thread does not panic");
    }

    fn move_on(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("grpc", &self.grpc)
            .field("http", &self.http)
            .field("stat", &self.stat)
            .field("debug", &self.debug)
            .field("phase", &*self.phase.borrow())
            .finish_non_exhaustive()
    }
}

/// The control thread from its first to its last moment.
fn run(
    cpus: Vec<usize>,
    servers: Servers,
    reports: Inbox<Report>,
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
    match servers.start(reports) {
        Ok(serving) => {
            report(Ok(()));
            runtime.block_on(serving);
        }
        Err(error) => report(Err(StartError::Thread(error))),
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
