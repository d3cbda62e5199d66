//! The handle of the control thread: start it, move it through the phases of the process, end it.

mod live_upgrade;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use comet_core::{Limits, Message, Report};
use comet_mesh::{Inbox, Pulse, Sender};
use comet_ops::{CertificatesInUse, LogFormat};
use comet_push::{
    CallLimits, ClientEndpoint, admin_routes, broadcast_routes, grpc_api, http_api, kick_routes,
    node_routes, push_routes, room_routes, with_node_service,
};
use comet_serve::{
    AccessControl, AccessLog, Address, ApiTls, CallCounts, DEBUG_CONNECTIONS, GRPC_CONNECTIONS,
    Gates, HTTP_CONNECTIONS, Inherited, NamedSocket, Phase, STAT_CONNECTIONS,
    StartError as ServeError, advance, connections_max, listen_or_inherit, request_bytes, spawn,
};
use tokio::sync::watch;

use crate::census::CensusTaker;
use crate::cluster::{ClusterDriver, ClusterOptions};
use crate::drain::{DrainPlan, Drained};
use crate::hub::HubDriver;
use crate::inspect;
use crate::inspector::Inspector;
use crate::liveness::CoreLiveness;
use crate::logic::{Logic, LogicOptions};
use crate::memory_ceiling::MemoryCeiling;
use crate::monitor::Monitor;
use crate::node::NodeDriver;
use crate::pushes::Pushes;
use crate::questions::Questions;
use crate::servers::Assembly;
use crate::spans::TracedPush;
use crate::start_error::StartError;
use crate::this_node::ThisNode;
use crate::wake::ControlWake;

/// The name of the thread, also in errors.
const THREAD: &str = "control";

/// The settings of the control thread.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the push API (`push.grpc`); port 0 takes a free one.
    pub grpc: Vec<Address>,
    /// Addresses of goim's HTTP push API (`push.http`); port 0 takes a free one.
    pub http: Vec<Address>,
    /// Addresses of health, metrics and stats (`monitor.stat`); port 0 takes a free one.
    pub stat: Vec<Address>,
    /// Addresses of profiles and of pages that change the running server (`monitor.pprof`); port 0 takes a free one.
    pub debug: Vec<Address>,
    /// Sockets of these addresses from another process. `Some`: that process serves the callers until
    /// [`Control::end_upgrade`].
    pub inherited: Option<Inherited>,
    /// TLS of these addresses and of logic (`api_tls`).
    pub tls: ApiTls,
    /// The addresses of logic. `None`: shards ask embedded logic, and no report may be for remote logic.
    pub logic: Option<LogicOptions>,
    /// Access control of the push API (`push.tokens`).
    pub push_access: Arc<AccessControl>,
    /// Whether calls of the push API are written to the log (`push.access_log`).
    pub access_log: Arc<AccessLog>,
    /// Access control of pages and services of operators (`monitor.tokens`).
    pub monitor_access: Arc<AccessControl>,
    /// The addresses and settings of this server as clients find them.
    pub node: ClientEndpoint,
    /// Its share of clients beside that of other servers (`server.weight`).
    pub weight: u32,
    /// Longest body of a pushed frame, bytes.
    pub frame_max: usize,
    /// Most keys, users, or rooms asked about, in one call.
    pub keys_max: usize,
    /// How long a call waits for the shards.
    pub call_timeout: Duration,
    /// CPUs the thread runs on; empty leaves it where the process may run.
    pub cpus: Vec<usize>,
    /// Name of this server in metrics, stats and answers.
    pub server_id: String,
    /// Version of this server in metrics, stats and answers.
    pub version: &'static str,
    /// The bounds that the shards are started with.
    pub limits: Arc<Limits>,
    /// The file of the trace log (`white_list.file`); `None`: there is none.
    pub trace_log: Option<PathBuf>,
    /// The form of its lines (`log.format`).
    pub log_format: LogFormat,
    /// Receives traced pushes when they have ended, as far as there is space; `None`: no push is traced.
    pub traced: Option<SyncSender<TracedPush>>,
    /// The zero of the shards' clock.
    pub epoch: Instant,
    /// The defaults of a drain by a call.
    pub drain: DrainPlan,
    /// Bytes that the process may have in RAM (`limits.memory`).
    pub memory: u64,
    /// Files that the process may open; see [`descriptors`].
    pub open_files: u64,
    /// The certificates that clients are shown, for metrics.
    pub certificates: Arc<CertificatesInUse>,
    /// The cores' signs of life, by shard; their times are milliseconds after `epoch`. A core without one counts as
    /// alive.
    pub pulses: Vec<Arc<Pulse>>,
}

/// Descriptors that callers may take, of the `open_files` of the process. They are not available to clients.
#[must_use]
pub fn descriptors(open_files: u64) -> u64 {
    let most = [GRPC_CONNECTIONS, HTTP_CONNECTIONS, STAT_CONNECTIONS, DEBUG_CONNECTIONS];
    most.iter().map(|most| connections_max(open_files, *most) as u64).sum()
}

/// The control thread. Dropping this without [`Control::stop`] also ends the thread, but does not wait for it.
pub struct Control {
    grpc: Vec<Address>,
    http: Vec<Address>,
    stat: Vec<Address>,
    debug: Vec<Address>,
    hub: Arc<HubDriver>,
    logic: Option<Arc<Logic>>,
    memory: Arc<MemoryCeiling>,
    monitor: Arc<Monitor>,
    node: Arc<NodeDriver>,
    liveness: Arc<CoreLiveness>,
    gates: Arc<Gates>,
    phase: watch::Sender<Phase>,
    /// Duplicates of the listening sockets.
    sockets: Vec<NamedSocket>,
    cluster: Option<Arc<ClusterDriver>>,
    log_format: LogFormat,
    thread: JoinHandle<()>,
}

impl Control {
    /// Listens at every address and starts the thread, which serves at once; health answers no until
    /// [`Control::set_ready`].
    ///
    /// `wake` is the wake-up of the inbox of `reports`; `shards` are the inboxes of all shards, in
    /// their order. `cluster` connects this host with others.
    ///
    /// # Errors
    /// If an address is in use or invalid, the CPUs do not exist, or the thread cannot be made.
    ///
    /// # Panics
    /// If there is no shard, or more than a [`comet_core::ShardId`] can number.
    pub fn start(
        options: Options,
        wake: Arc<ControlWake>,
        shards: Vec<Sender<Message>>,
        reports: Inbox<Report>,
        cluster: Option<ClusterOptions>,
    ) -> Result<Self, StartError> {
        let inherited = options.inherited.clone().unwrap_or_default();
        let listen = |setting, addresses: &[Address]| {
            listen_or_inherit(setting, addresses, &options.tls, &inherited)
        };
        let mut grpc = listen("push.grpc", &options.grpc)?;
        let mut http = listen("push.http", &options.http)?;
        let mut stat = listen("monitor.stat", &options.stat)?;
        let mut debug = listen("monitor.pprof", &options.debug)?;
        let bound = [&mut grpc, &mut http, &mut stat, &mut debug];
        let sockets = bound.into_iter().flat_map(|bound| bound.sockets.drain(..)).collect();
        let Options { push_access, monitor_access, .. } = &options;
        for (setting, bound, lock, what) in [
            ("push.grpc", &grpc, push_access, "push"),
            ("push.http", &http, push_access, "push"),
            ("monitor.stat", &stat, monitor_access, "read what it holds"),
            ("monitor.pprof", &debug, monitor_access, "profile this process and change its log"),
        ] {
            for address in options.tls.open_to_all(&bound.addresses).filter(|_| lock.is_open()) {
                log::warn!("{setting}: {address} is open to other hosts: all of them may {what}");
            }
        }
        let is_traced = options.traced.is_some();
        let (epoch, traced) = (options.epoch, options.traced);
        let hub = Arc::new(HubDriver::new(shards, wake, options.limits, epoch, traced));
        if let Some(path) = options.trace_log {
            hub.set_trace_log(Some(path.clone()), options.log_format)
                .map_err(|error| StartError::TraceLog { path, error })?;
        }
        let logic = match &options.logic {
            Some(logic) => {
                Some(Logic::new(logic, &options.tls, options.server_id.clone(), Arc::clone(&hub))?)
            }
            None => None,
        };
        let logic = logic.map(Arc::new);
        let liveness = Arc::new(CoreLiveness::new(options.pulses, options.epoch));
        let first = if options.inherited.is_some() { Phase::Upgrading } else { Phase::Starting };
        let (phase, phases) = watch::channel(first);
        let bounds = CallLimits {
            frame_max: options.frame_max,
            keys_max: options.keys_max,
            timeout: options.call_timeout,
        };
        let gates = Gates::new(options.open_files, request_bytes(bounds.request_max()));
        let gates = Arc::new(gates.traced(is_traced));
        let counts = Arc::new(CallCounts::default());
        let memory = Arc::new(MemoryCeiling::new(options.memory));
        let cluster = cluster.map(|it| ClusterDriver::start(it, Arc::clone(&hub), epoch));
        let (driver, cluster_work) = cluster.unzip();
        let inspector = Arc::new(Inspector::new(Arc::clone(&hub)));
        let (listed, others) = (Arc::clone(&inspector), driver.clone());
        let questions = Arc::new(Questions::new(Arc::clone(&hub), listed, bounds, others));
        let (asked, others) = (Arc::clone(&questions), driver.clone());
        let pushes = Pushes::new(Arc::clone(&hub), Arc::clone(&memory), asked, bounds, others);
        let pushes = Arc::new(pushes);
        let node = Arc::new(NodeDriver::new(
            Arc::clone(&hub),
            Arc::clone(&pushes),
            phase.clone(),
            options.drain,
            options.call_timeout,
        ));
        let this_node = ThisNode {
            node: options.node.clone(),
            weight: options.weight,
            server_id: options.server_id.clone(),
            version: options.version,
            grpc: grpc.addresses.clone(),
            pushes: Arc::clone(&pushes),
            phase: phases.clone(),
        };
        let calls = push_routes(Arc::clone(&pushes), &counts).merge(node_routes(
            Arc::new(this_node),
            options.node,
            &counts,
        ));
        let calls = calls
            .merge(broadcast_routes(&pushes, &counts))
            .merge(kick_routes(&pushes, &counts))
            .merge(room_routes(&pushes, &counts))
            .merge(admin_routes(&node, &counts));
        let push = grpc_api(Arc::clone(&pushes), Arc::clone(&counts), phases.clone());
        let push = with_node_service(push, Arc::clone(&node), Arc::clone(&counts));
        let monitor = Arc::new(Monitor {
            inspector: Arc::clone(&inspector),
            questions: Arc::clone(&questions),
            liveness: Arc::clone(&liveness),
            memory: Arc::clone(&memory),
            certificates: options.certificates,
            hub: Arc::clone(&hub),
            node: Arc::clone(&node),
            logic: logic.clone(),
            cluster: driver.clone(),
            counts: Arc::clone(&counts),
            gates: Arc::clone(&gates),
            server_id: options.server_id,
            version: options.version,
            started: Instant::now(),
            phase: phases.clone(),
        });
        let servers = Assembly {
            grpc: grpc.listeners,
            http: http.listeners,
            stat: stat.listeners,
            debug: debug.listeners,
            bounds,
            gates: Arc::clone(&gates),
            push_access: options.push_access,
            access_log: options.access_log,
            monitor_access: options.monitor_access,
            hub: Arc::clone(&hub),
            logic: logic.clone(),
            cluster: driver.clone(),
            cluster_work,
            pushes: Arc::clone(&pushes),
            push: inspect::serve(push, inspector, questions, counts),
            node: Arc::clone(&node),
            calls: http_api(calls),
            liveness: Arc::clone(&liveness),
            memory: Arc::clone(&memory),
            monitor: Arc::clone(&monitor),
            phase: phases,
        };
        let thread = spawn(THREAD, options.cpus, move || {
            servers.start(reports).map_err(|error| ServeError::Thread { thread: THREAD, error })
        })?;
        Ok(Self {
            grpc: grpc.addresses,
            http: http.addresses,
            stat: stat.addresses,
            debug: debug.addresses,
            hub,
            logic,
            memory,
            monitor,
            node,
            liveness,
            gates,
            phase,
            sockets,
            cluster: driver,
            log_format: options.log_format,
            thread,
        })
    }

    /// The addresses of the push API, with real ports, in the order of [`Options::grpc`].
    #[must_use]
    pub fn grpc_addrs(&self) -> &[Address] {
        &self.grpc
    }

    /// The addresses of the HTTP push API, with real ports, in the order of [`Options::http`].
    #[must_use]
    pub fn http_addrs(&self) -> &[Address] {
        &self.http
    }

    /// The addresses of health and metrics, with real ports, in the order of [`Options::stat`].
    #[must_use]
    pub fn stat_addrs(&self) -> &[Address] {
        &self.stat
    }

    /// The addresses of profiles, with real ports, in the order of [`Options::debug`].
    #[must_use]
    pub fn debug_addrs(&self) -> &[Address] {
        &self.debug
    }

    /// Sends every shard new limits, without waiting. Those that control decides itself are kept: whether the process
    /// is out of memory, whether it takes clients, which networks are blocked, and what is traced live.
    pub fn configure(&self, limits: Limits) {
        self.hub.configure(|now| Limits {
            is_out_of_memory: now.is_out_of_memory,
            refuses_pushes: now.refuses_pushes,
            takes_clients: now.takes_clients,
            blocklist: now.blocklist,
            traces: now.traces,
            ..limits
        });
    }

    /// Sets the number of bytes that the process may have in RAM.
    pub fn set_memory_ceiling(&self, bytes: u64) {
        self.memory.set(bytes);
    }

    /// Sets the addresses of logic, without waiting. Calls under way end at their present addresses.
    ///
    /// # Errors
    /// If one of them is invalid; then nothing changes.
    ///
    /// # Panics
    /// If [`Options::logic`] named none.
    pub fn set_logic_addresses(&self, addrs: &[String]) -> Result<(), StartError> {
        let logic = self.logic.as_ref().expect("logic is elsewhere from the start or never");
        Ok(logic.set_addresses(addrs)?)
    }

    /// A handle that changes the file of the trace log.
    #[must_use]
    pub fn trace_log(&self) -> TraceLogSwitch {
        TraceLogSwitch { hub: Arc::clone(&self.hub), format: self.log_format }
    }

    /// A handle that counts the clients, for a thread that may wait.
    #[must_use]
    pub fn census_taker(&self) -> CensusTaker {
        CensusTaker::new(Arc::clone(&self.hub))
    }

    /// Sets the defaults of a drain by a call.
    pub fn set_drain_plan(&self, plan: DrainPlan) {
        self.node.set_plan(plan);
    }

    /// Sets the function that is called with `false` when this server has to leave discovery, and with `true` when it
    /// has to be found there again. It must return at once.
    pub fn set_listing(&self, listing: impl Fn(bool) + Send + Sync + 'static) {
        self.node.set_listing(Box::new(listing));
    }

    /// Call this when every listener for clients is bound: then `/healthz` answers 200, and gRPC health SERVING. No
    /// effect once draining.
    pub fn set_ready(&self) {
        advance(&self.phase, Phase::Ready);
    }

    /// Turns health off, waits for the plan's delay, tells every shard to close its connections by `plan`, and blocks
    /// the calling thread until all are closed or the plan's limit has passed. Pushes are still taken meanwhile, and
    /// reach clients that are still connected. This ends a drain by a call; the time that such a drain has already
    /// waited counts.
    #[must_use]
    pub fn drain(&self, plan: DrainPlan) -> Drained {
        std::thread::sleep(self.node.end(plan.delay));
        Drained { done: self.hub.drain(plan), shards: usize::from(self.hub.shards()) }
    }

    /// Ends the servers and waits for the thread; calls under way get a second to end.
    ///
    /// # Panics
    /// If the thread panicked.
    pub fn stop(self) {
        // Closed first, so that no caller connects to a socket that is no longer accepted from.
        drop(self.sockets);
        advance(&self.phase, Phase::Stopped);
        self.thread.join().expect("the control thread does not panic");
        self.hub.end_traces();
    }
}

/// Changes the file of the trace log, while the server runs or drains.
pub struct TraceLogSwitch {
    hub: Arc<HubDriver>,
    format: LogFormat,
}

impl TraceLogSwitch {
    /// Has the trace log written to `path`, or to no file. If `path` is already in use it is opened again, because the
    /// old file may have been moved away.
    ///
    /// # Errors
    /// If another file cannot be opened; then the old one is kept.
    pub fn set(&self, path: Option<PathBuf>) -> io::Result<()> {
        self.hub.set_trace_log(path, self.format)
    }
}

impl fmt::Debug for TraceLogSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLogSwitch").finish_non_exhaustive()
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
