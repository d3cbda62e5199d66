//! Start, run, drain: the life of the server.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use comet_config::{Config, Machine, SlowConsumer};
use comet_control::{Control, ControlWake, Node, Options};
use comet_core::{Limits, Settings, ShardId, Transport};
use comet_logic::Embedded;
use comet_mesh::{EventFd, Wake, inbox};
use comet_net::{Core, CoreSettings, ListenOptions, Listener, Ports, ProbeError};

/// Reports that may wait for the control thread.
const REPORTS: usize = 65_536;
/// How long a core may take to set up its ring.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub struct App {
    control: Control,
    cores: Vec<Core>,
    tcp: Vec<SocketAddr>,
    websocket: Vec<SocketAddr>,
    drain_timeout: Duration,
}

/// Why a server did not start.
#[derive(Debug)]
pub enum StartError {
    /// The machine lacks something.
    Probe(ProbeError),
    /// An address cannot be listened on.
    Listen {
        /// Key of the configuration that names it.
        setting: &'static str,
        /// What is wrong with it.
        source: comet_net::ListenError,
    },
    /// The control thread did not start.
    Control(comet_control::StartError),
    /// A core did not start.
    Core(comet_net::StartError),
    /// The process is out of something at once.
    System(std::io::Error),
    /// A core said nothing for too long.
    Silent,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(error) => error.fmt(f),
            Self::Listen { setting, source } => write!(f, "{setting}: {source}"),
            Self::Control(error) => error.fmt(f),
            Self::Core(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
            Self::Silent => {
                write!(f, "a core did not start within {START_TIMEOUT:?}: is its CPU busy?")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<ProbeError> for StartError {
    fn from(error: ProbeError) -> Self {
        Self::Probe(error)
    }
}

/// How a server ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Cores whose last client left within the drain timeout.
    pub drained: usize,
    /// All cores.
    pub cores: usize,
}

/// The machine as the configuration needs it: the CPUs this process may run on, and its name.
///
/// # Errors
/// If the kernel does not say.
pub fn machine() -> std::io::Result<Machine> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(Machine { cpus, host_name })
}

impl App {
    /// Starts everything `config` names. When this returns, every listener accepts and `/healthz` says
    /// so.
    ///
    /// # Errors
    /// The first thing that did not work; nothing is left running.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let open_files = comet_net::probe()?;
        let epoch = Instant::now();
        let count = config.server.cores.len();
        let shards =
            u16::try_from(count).expect("the configuration names no more CPUs than there are");
        let limits = Arc::new(limits(config, open_files));
        let ring_entries = comet_net::fit_ring(config.limits.ring_entries, count);
        if ring_entries < config.limits.ring_entries {
            log::warn!(
                "limits.ring_entries is {ring_entries} and not {}: {count} cores would lock more \
                 memory than this user may (ulimit -l, or LimitMEMLOCK= in a systemd unit)",
                config.limits.ring_entries
            );
        }

        let mut listeners: Vec<Vec<Listener>> = (0..count).map(|_| Vec::new()).collect();
        let tcp = listen(config, "tcp.bind", &config.tcp.bind, Transport::Tcp, &mut listeners)?;
        let websocket = listen(
            config,
            "websocket.bind",
            &config.websocket.bind,
            Transport::WebSocket,
            &mut listeners,
        )?;

        let wake = Arc::new(ControlWake::default());
        let (control_sender, reports) = inbox(REPORTS, Arc::clone(&wake) as Arc<dyn Wake>);
        let mut peers = Vec::with_capacity(count);
        let mut inboxes = Vec::with_capacity(count);
        for _ in 0..count {
            let bell = Arc::new(EventFd::new().map_err(StartError::System)?);
            let waker: Arc<dyn Wake> = bell.clone();
            let (sender, inbox) = inbox(config.limits.mesh_inbox, waker);
            peers.push(sender);
            inboxes.push((inbox, bell));
        }
        let options = options(config, &tcp, &websocket);
        let control =
            Control::start(options, wake, peers.clone(), reports).map_err(StartError::Control)?;

        let mut app = Self {
            control,
            cores: Vec::with_capacity(count),
            tcp,
            websocket,
            drain_timeout: config.server.drain_timeout,
        };
        let (ready, is_ready) = mpsc::channel();
        // Keys of the std hasher are random for each process.
        let hash_seed = RandomState::new().hash_one("comet");
        for (((index, cpu), (inbox, bell)), listeners) in
            (0..).zip(&config.server.cores).zip(inboxes).zip(listeners)
        {
            let shard = ShardId(index);
            let settings = CoreSettings {
                cpu: Some(*cpu),
                shard: Settings { shard, shards, limits: Arc::clone(&limits), hash_seed },
                listeners,
                ring_entries,
                recv_buffers: config.limits.recv_buffers,
                recv_buffer_size: config.limits.recv_buffer_size as usize,
                spin: config.server.spin,
                epoch,
            };
            let ports =
                Ports { inbox, bell, peers: peers.clone(), control: control_sender.clone() };
            match Core::start(settings, ports, Embedded, ready.clone()) {
                Ok(core) => app.cores.push(core),
                Err(error) => return Err(app.give_up(StartError::Core(error))),
            }
        }
        drop(ready);
        for _ in 0..count {
            match is_ready.recv_timeout(START_TIMEOUT) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(app.give_up(StartError::Core(error))),
                Err(RecvTimeoutError::Timeout) => return Err(app.give_up(StartError::Silent)),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(app.explain_end(&config.server.cores));
                }
            }
        }
        app.control.set_ready();
        app.announce(config, &limits);
        Ok(app)
    }

    /// TCP addresses in use.
    #[must_use]
    pub fn tcp_addrs(&self) -> &[SocketAddr] {
        &self.tcp
    }

    /// WebSocket addresses in use.
    #[must_use]
    pub fn websocket_addrs(&self) -> &[SocketAddr] {
        &self.websocket
    }

    /// Addresses of the push API.
    #[must_use]
    pub fn grpc_addrs(&self) -> &[SocketAddr] {
        self.control.grpc_addrs()
    }

    /// Addresses of the HTTP push API.
    #[must_use]
    pub fn http_addrs(&self) -> &[SocketAddr] {
        self.control.http_addrs()
    }

    /// Addresses of health and metrics.
    #[must_use]
    pub fn stat_addrs(&self) -> &[SocketAddr] {
        self.control.stat_addrs()
    }

    /// Says goodbye to every client, waits for them to leave as long as the drain timeout, and ends.
    ///
    /// # Panics
    /// If a core had failed.
    #[must_use]
    pub fn drain(self) -> Ended {
        let drained = self.control.drain(self.drain_timeout);
        if let Err((shard, cause)) = self.stop() {
            panic!("core {} failed: {cause}", shard.0);
        }
        Ended { drained: drained.done, cores: drained.shards }
    }

    /// Ends everything; says which core had failed, and why.
    fn stop(self) -> Result<(), (ShardId, String)> {
        let mut ended = Ok(());
        for (index, core) in (0..).zip(self.cores) {
            ended = ended.and(core.stop().map_err(|cause| (ShardId(index), cause)));
        }
        self.control.stop();
        ended
    }

    fn give_up(self, error: StartError) -> StartError {
        // A core that failed beside it would only say the same.
        let _ = self.stop();
        error
    }

    /// A core ended before it could speak.
    fn explain_end(self, cpus: &[usize]) -> StartError {
        let (shard, cause) = self.stop().expect_err("only a core that failed says nothing");
        let cpu = Some(cpus[usize::from(shard.0)]);
        StartError::Core(comet_net::StartError { shard, cpu, cause })
    }

    fn announce(&self, config: &Config, limits: &Limits) {
        log::info!(
            "comet {} as {:?}: {} cores, {} connections a core",
            env!("CARGO_PKG_VERSION"),
            config.server.id,
            self.cores.len(),
            limits.connections,
        );
        log::info!("tcp {:?}, websocket {:?}", self.tcp, self.websocket);
        log::info!("push {:?}, stat {:?}", self.grpc_addrs(), self.stat_addrs());
        log::info!("http push {:?}", self.http_addrs());
        log::warn!(
            "embedded logic takes every token at its word: whoever connects says who they are"
        );
    }
}

fn listen(
    config: &Config,
    setting: &'static str,
    addresses: &[SocketAddr],
    transport: Transport,
    listeners: &mut [Vec<Listener>],
) -> Result<Vec<SocketAddr>, StartError> {
    let options = ListenOptions {
        backlog: config.tcp.backlog,
        sndbuf: config.tcp.sndbuf,
        rcvbuf: config.tcp.rcvbuf,
        keepalive: config.tcp.keepalive,
        nodelay: config.tcp.nodelay,
    };
    let mut bound = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let (address, sockets) = comet_net::bind(address, listeners.len(), &options)
            .map_err(|source| StartError::Listen { setting, source })?;
        bound.push(address);
        for (core, socket) in listeners.iter_mut().zip(sockets) {
            core.push(Listener { socket, transport });
        }
    }
    Ok(bound)
}

fn options(config: &Config, tcp: &[SocketAddr], websocket: &[SocketAddr]) -> Options {
    Options {
        grpc: config.push.grpc.clone(),
        http: config.push.http.clone(),
        stat: config.monitor.stat.clone(),
        node: Node {
            domain: config.server.domain.clone(),
            tcp: tcp.to_vec(),
            websocket: websocket.to_vec(),
            heartbeat: config.protocol.heartbeat,
        },
        frame_max: config.push.frame_max,
        keys_max: config.push.keys_max,
        call_timeout: config.push.timeout,
        cpus: config.server.control_cores.clone(),
        server_id: config.server.id.clone(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// The shard's bounds from the configuration; durations are bounded there to fit.
pub(crate) fn limits(config: &Config, open_files: u64) -> Limits {
    let protocol = &config.protocol;
    let cores = config.server.cores.len() as u64;
    let connections = match config.limits.connections {
        0 => u32::try_from(open_files / cores).unwrap_or(u32::MAX).clamp(1, CONNECTIONS_MAX),
        connections => connections,
    };
    let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    Limits {
        connections,
        body_max: protocol.body_max,
        head_max: config.websocket.head_max,
        path: config.websocket.path.as_str().into(),
        svr_proto: protocol.svr_proto,
        outbox_bytes: protocol.outbox_bytes,
        cli_proto: protocol.cli_proto,
        slow_consumer: match protocol.slow_consumer {
            SlowConsumer::DropNewest => comet_core::SlowConsumer::DropNewest,
            SlowConsumer::DropOldest => comet_core::SlowConsumer::DropOldest,
            SlowConsumer::Close => comet_core::SlowConsumer::Close,
        },
        filter_rooms: protocol.filter_rooms,
        mesh_backlog: config.limits.mesh_backlog,
        handshake_ms: millis(protocol.handshake_timeout),
        write_ms: millis(protocol.write_timeout),
        heartbeat_ms: millis(protocol.heartbeat),
        linger_ms: millis(protocol.linger),
        buckets: (config.bucket.count / config.server.cores.len()).next_power_of_two(),
    }
}

/// Connections of a core where nothing but the open files bounds them.
const CONNECTIONS_MAX: u32 = 1 << 24;
