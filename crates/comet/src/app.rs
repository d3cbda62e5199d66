//! Start, run, drain: the life of the server.

use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use comet_config::{Config, Machine};
use comet_control::{
    Address, ApiTls, CensusTaker, Control, ControlWake, Lock, Options, TraceLogSwitch,
};
use comet_core::{Limits, Settings, ShardId};
use comet_logic::{AnyAuthenticator, Embedded};
use comet_mesh::{EventFd, Pulse, Wake, express_inbox, inbox};
use comet_net::{Core, CoreSettings, MeshEndpoints, Tls};
use comet_ops::{Certificate, CertificatesInUse};
use comet_serve::{AccessLog, Renewal};

use crate::StartError;
use crate::api_tls;
use crate::discovery::Discovery;
use crate::jwks;
use crate::listeners::{self, Addresses, CallerListeners, Listeners};
use crate::logic::authenticator;
use crate::nats;
use crate::options::{
    Opened, control_options, drain_plan, limits, logic, memory_ceiling, smaller_rings, warnings,
};
use crate::reload::{self, Reloaded};
use crate::span_export::SpanExport;
use crate::token_keys;

/// Reports that may wait for the control thread.
pub(crate) const REPORTS: usize = 65_536;
/// How long a core may take to set up its ring.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub struct App {
    control: Control,
    /// The registration; `None`: there is none, or not yet.
    discovery: Option<Discovery>,
    /// The thread that sends spans to a collector; `None`: no push is traced.
    spans: Option<SpanExport>,
    cores: Vec<Core>,
    addresses: Addresses,
    callers: CallerListeners,
    pub(crate) tls: Option<Tls>,
    api_tls: ApiTls,
    certificates: Arc<CertificatesInUse>,
    /// Of embedded logic.
    authenticator: AnyAuthenticator,
    push_lock: Arc<Lock>,
    access_log: Arc<AccessLog>,
    monitor_lock: Arc<Lock>,
    /// The configuration in effect.
    config: Config,
    /// Descriptors that the limit on open files leaves for connections.
    open_files: u64,
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
/// If the kernel does not report them.
pub fn machine() -> std::io::Result<Machine> {
    let cpus = comet_cpus::allowed()?;
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(Machine { cpus, host_name })
}

impl App {
    /// Starts everything `config` names. When this returns, every listener accepts and `/healthz` reports
    /// it.
    ///
    /// # Errors
    /// The first failure. Nothing is left running, except after [`StartError::Silent`]: cores then end as
    /// soon as they can.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let count = config.server.cores.len();
        let open_files = comet_net::probe(config.limits.ring_entries, count)?;
        let embedded = config.logic.addrs.is_empty();
        let authenticator = if embedded {
            authenticator(&config.token).map_err(StartError::Logic)?
        } else {
            // Never used: another process checks the tokens, and has the keys.
            AnyAuthenticator::Open(Embedded)
        };
        let epoch = Instant::now();
        let shards =
            u16::try_from(count).expect("the configuration names no more CPUs than there are");
        for warning in warnings(config, open_files) {
            log::warn!("{warning}");
        }
        let limits = Arc::new(limits(config, open_files));
        if !comet_net::reserve_descriptors(u64::from(shards) * u64::from(limits.connections)) {
            log::debug!("the table of descriptors grows while connections come");
        }
        let ring_entries = comet_net::fit_ring(config.limits.ring_entries, count);
        if ring_entries < config.limits.ring_entries {
            log::warn!("{}", smaller_rings(ring_entries, config));
        }

        let api_tls = api_tls::load(config, api_tls::Caller::Comet).map_err(StartError::ApiTls)?;
        let Listeners { cores: listeners, mut callers, addresses, tls } = listeners::open(config)?;
        jwks::fetch(&authenticator, &config.token);

        let wake = Arc::new(ControlWake::default());
        let (control_sender, reports) = inbox(REPORTS, Arc::clone(&wake) as Arc<dyn Wake>);
        let mut peers = Vec::with_capacity(count);
        let mut inboxes = Vec::with_capacity(count);
        let mut pulses = Vec::with_capacity(count);
        for _ in 0..count {
            let bell = Arc::new(EventFd::new().map_err(StartError::System)?);
            let waker: Arc<dyn Wake> = bell.clone();
            let (sender, inbox) = express_inbox(config.limits.mesh_inbox, waker);
            peers.push(sender);
            pulses.push(Arc::new(Pulse::new(bell.clone())));
            inboxes.push((inbox, bell));
        }
        let certificates = Arc::<CertificatesInUse>::default();
        certificates.replace(all_certificates(tls.as_ref(), api_tls.certificate(), config));
        let opened = Opened {
            addresses: &addresses,
            certificates: &certificates,
            api_tls: &api_tls,
            open_files,
        };
        let (spans, traced) = SpanExport::start(config).map_err(StartError::System)?.unzip();
        let options = control_options(config, &opened, &limits, epoch, pulses.clone());
        let options = Options { traced, ..options };
        let (push_lock, monitor_lock) =
            (Arc::clone(&options.push_lock), Arc::clone(&options.monitor_lock));
        let access_log = Arc::clone(&options.access_log);
        let cluster = nats::cluster(config).map_err(StartError::Nats)?;
        let reports_rooms = cluster.is_some();
        let control = Control::start(options, wake, peers.clone(), reports, cluster);
        let control = control.map_err(StartError::Control)?;

        let caller_listeners = mem::take(&mut callers.cores);
        let mut app = Self {
            control,
            discovery: None,
            spans,
            cores: Vec::with_capacity(count),
            addresses,
            callers,
            tls,
            api_tls,
            certificates,
            authenticator: authenticator.clone(),
            push_lock,
            access_log,
            monitor_lock,
            config: config.clone(),
            open_files,
        };
        let (ready, is_ready) = mpsc::channel();
        let logic = logic(&config.logic);
        // Keys of the std hasher are random for each process.
        let hash_seed = RandomState::new().hash_one("comet");
        let listeners = listeners.into_iter().zip(caller_listeners);
        for ((((index, cpu), (inbox, bell)), pulse), (listeners, caller_listeners)) in
            (0..).zip(&config.server.cores).zip(inboxes).zip(pulses).zip(listeners)
        {
            let shard = ShardId(index);
            let settings = CoreSettings {
                cpu: Some(*cpu),
                shard: Settings {
                    shard,
                    shards,
                    limits: Arc::clone(&limits),
                    logic,
                    hash_seed,
                    reports_rooms,
                },
                listeners,
                caller_listeners,
                ring_entries,
                recv_buffers: config.limits.recv_buffers,
                recv_buffer_size: config.limits.recv_buffer_size as usize,
                spin: config.server.spin,
                busy_poll: config.server.busy_poll,
                epoch,
                arrived: None,
            };
            let ports = MeshEndpoints {
                inbox,
                wakeup: bell,
                pulse,
                peers: peers.clone(),
                control: control_sender.clone(),
            };
            match Core::start(settings, ports, authenticator.clone(), ready.clone()) {
                Ok(core) => app.cores.push(core),
                Err(error) => return Err(app.give_up(StartError::Core(error))),
            }
        }
        drop(ready);
        for _ in 0..count {
            match is_ready.recv_timeout(START_TIMEOUT) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(app.give_up(StartError::Core(error))),
                Err(RecvTimeoutError::Timeout) => return Err(app.abandon()),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(app.explain_end(&config.server.cores));
                }
            }
        }
        app.control.set_ready();
        let census = app.control.census_taker();
        match Discovery::start(config, app.control.grpc_addrs(), census) {
            Ok(discovery) => {
                if let Some(discovery) = &discovery {
                    app.control.set_listing(discovery.listing());
                }
                app.discovery = discovery;
            }
            Err(error) => return Err(app.give_up(StartError::System(error))),
        }
        app.announce(config, &limits);
        app.certificates.warn();
        if embedded && matches!(authenticator, AnyAuthenticator::Open(_)) {
            log::warn!(
                "embedded logic does not verify tokens (token.kind is \"open\"): clients choose their own identity"
            );
        }
        Ok(app)
    }

    /// TCP addresses in use.
    #[must_use]
    pub fn tcp_addrs(&self) -> &[SocketAddr] {
        &self.addresses.tcp
    }

    /// Addresses of TCP inside TLS in use.
    #[must_use]
    pub fn tcp_tls_addrs(&self) -> &[SocketAddr] {
        &self.addresses.tcp_tls
    }

    /// WebSocket addresses in use.
    #[must_use]
    pub fn websocket_addrs(&self) -> &[SocketAddr] {
        &self.addresses.websocket
    }

    /// Addresses of WebSocket inside TLS in use.
    #[must_use]
    pub fn websocket_tls_addrs(&self) -> &[SocketAddr] {
        &self.addresses.websocket_tls
    }

    /// Addresses of the push API.
    #[must_use]
    pub fn grpc_addrs(&self) -> &[Address] {
        self.control.grpc_addrs()
    }

    /// Addresses of the HTTP push API.
    #[must_use]
    pub fn http_addrs(&self) -> &[Address] {
        self.control.http_addrs()
    }

    /// Addresses of the frames for push callers.
    #[must_use]
    pub fn frames_addrs(&self) -> &[Address] {
        &self.callers.addresses
    }

    /// Addresses of health and metrics.
    #[must_use]
    pub fn stat_addrs(&self) -> &[Address] {
        self.control.stat_addrs()
    }

    /// What counts the clients, for a thread that may wait.
    pub(crate) fn census_taker(&self) -> CensusTaker {
        self.control.census_taker()
    }

    /// The configuration in effect.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Opens the file of the trace log again under its name: the old file may have been moved away.
    ///
    /// # Errors
    /// If that fails, as a sentence.
    pub fn reopen(&self) -> Result<(), String> {
        self.set_trace_log(&self.config)
    }

    /// What [`App::reopen`] does, for the time when the server drains.
    pub(crate) fn reopener(&self) -> impl Fn() -> Result<(), String> + use<> {
        let (trace_log, file) = (self.control.trace_log(), self.config.white_list.file.clone());
        move || set_trace_log(&trace_log, file.clone())
    }

    /// Takes over the keys of `newer` that change alive. Returns what changed and what waits.
    ///
    /// # Errors
    /// If some of it cannot be used, a sentence for each mistake; then nothing changes.
    pub fn reload(&mut self, newer: &Config) -> Result<Reloaded, String> {
        let adopted = self.config.adopt(newer).map_err(|mistakes| reload::misfit(&mistakes))?;
        let mut reloaded = Reloaded::compare(&self.config, newer);
        if adopted.logic.addrs != self.config.logic.addrs {
            // Tried first: nothing changes if one is none.
            for address in &adopted.logic.addrs {
                comet_serve::Peer::new(address, &self.api_tls, adopted.logic.timeout)
                    .map_err(|bad| comet_control::StartError::LogicAddress(bad).to_string())?;
            }
        }
        let token_keys = token_keys::reload(&self.authenticator, &adopted.token.jwt_keys)?;
        if adopted.white_list.file != self.config.white_list.file {
            self.set_trace_log(&adopted)?;
        }
        // Also where the names are the same: the files may have changed.
        let renewal = match self.reload_tls(&adopted) {
            Ok((certificates, renewal)) => {
                reloaded.certificates = certificates;
                renewal
            }
            Err(error) => {
                self.set_trace_log(&self.config)?;
                return Err(error);
            }
        };
        reloaded.files = token_keys.adopt();
        for warning in warnings(&adopted, self.open_files) {
            log::warn!("{warning}");
        }
        if adopted.logic.addrs != self.config.logic.addrs {
            let set = self.control.set_logic_addresses(&adopted.logic.addrs);
            set.expect("each address was tried above");
        }
        self.control.configure(limits(&adopted, self.open_files));
        self.control.set_memory_ceiling(memory_ceiling(&adopted));
        self.control.set_drain_plan(drain_plan(&adopted));
        self.access_log.set(adopted.push.access_log);
        // Of two locks, the new one closes before the former opens.
        let locks = [
            (&self.push_lock, &adopted.push.tokens),
            (&self.monitor_lock, &adopted.monitor.tokens),
        ];
        for (lock, tokens) in locks.iter().filter(|(_, tokens)| !tokens.is_empty()) {
            lock.set_tokens((*tokens).clone());
        }
        renewal.take_effect();
        for (lock, tokens) in locks {
            lock.set_tokens(tokens.clone());
        }
        self.config = adopted;
        Ok(reloaded)
    }

    /// Returns the certificates that are new to clients and callers, and the files of the APIs, not used yet.
    fn reload_tls(&self, config: &Config) -> Result<(Vec<Certificate>, Renewal), String> {
        let renewal = api_tls::renew(&self.api_tls, config, api_tls::Caller::Comet)?;
        if let Some(tls) = &self.tls {
            listeners::reload(tls, config).map_err(|error| error.to_string())?;
        }
        let all = all_certificates(self.tls.as_ref(), renewal.certificate(), config);
        Ok((self.certificates.replace(all), renewal))
    }

    /// The certificates that clients and callers are shown.
    #[must_use]
    pub fn certificates(&self) -> &CertificatesInUse {
        &self.certificates
    }

    fn set_trace_log(&self, config: &Config) -> Result<(), String> {
        set_trace_log(&self.control.trace_log(), config.white_list.file.clone())
    }

    /// Addresses of profiles, of the log level and of the trace list.
    #[must_use]
    pub fn debug_addrs(&self) -> &[Address] {
        self.control.debug_addrs()
    }

    /// Sends every client a close notice, waits for clients to leave up to the drain timeout, and ends.
    ///
    /// # Panics
    /// If a core had failed.
    #[must_use]
    pub fn drain(mut self) -> Ended {
        if let Some(discovery) = &mut self.discovery {
            discovery.cancel();
        }
        let drained = self.control.drain(drain_plan(&self.config));
        if let Err((shard, cause)) = self.stop() {
            panic!("core {} failed: {cause}", shard.0);
        }
        Ended { drained: drained.done, cores: drained.shards }
    }

    /// Ends everything. The error is a core that had failed, and why.
    fn stop(self) -> Result<(), (ShardId, String)> {
        if let Some(discovery) = self.discovery {
            discovery.finish();
        }
        let mut ended = Ok(());
        for (index, core) in (0..).zip(self.cores) {
            ended = ended.and(core.stop().map_err(|cause| (ShardId(index), cause)));
        }
        self.control.stop();
        if let Some(spans) = self.spans {
            spans.finish();
        }
        ended
    }

    fn give_up(self, error: StartError) -> StartError {
        // A core that failed beside it would report the same.
        let _ = self.stop();
        error
    }

    /// A core did not report in time, and it may not end, either. All cores are stopped, and nothing waits
    /// for them.
    fn abandon(self) -> StartError {
        for core in self.cores {
            std::thread::spawn(move || core.stop());
        }
        self.control.stop();
        StartError::Silent(START_TIMEOUT)
    }

    /// A core ended before it reported.
    fn explain_end(self, cpus: &[usize]) -> StartError {
        let (shard, cause) = self.stop().expect_err("only a core that failed says nothing");
        let cpu = Some(cpus[usize::from(shard.0)]);
        StartError::Core(comet_net::CoreStartError { shard, cpu, cause })
    }

    fn announce(&self, config: &Config, limits: &Limits) {
        log::info!(
            "comet {} as {:?}: {} cores, {} connections a core",
            env!("CARGO_PKG_VERSION"),
            config.server.id,
            self.cores.len(),
            limits.connections,
        );
        log::info!("memory: at most {} MiB", memory_ceiling(config) >> 20);
        let Addresses { tcp, tcp_tls, websocket, websocket_tls } = &self.addresses;
        log::info!("tcp {tcp:?}, websocket {websocket:?}");
        if self.tls.is_some() {
            log::info!("with TLS: tcp {tcp_tls:?}, websocket {websocket_tls:?}");
        }
        log::info!("push {:?}, stat {:?}", self.grpc_addrs(), self.stat_addrs());
        log::info!("http push {:?}", self.http_addrs());
        if !self.frames_addrs().is_empty() {
            log::info!("push frames {:?}", self.frames_addrs());
        }
        for address in self.frames_addrs().iter().filter(|address| address.is_exposed()) {
            if config.push.tokens.is_empty() {
                log::warn!("push.frames: {address} is open to other hosts: all of them may push");
            }
        }
        log::info!("debug {:?}", self.debug_addrs());
        if !config.logic.addrs.is_empty() {
            log::info!("logic {:?}", config.logic.addrs);
        }
    }
}

/// The certificates that clients are shown, and the one of the APIs.
fn all_certificates(tls: Option<&Tls>, api: Option<Vec<u8>>, config: &Config) -> Vec<Certificate> {
    let clients = tls.map(|tls| listeners::certificates(tls, config));
    clients.unwrap_or_default().into_iter().chain(api_tls::certificate(api, config)).collect()
}

fn set_trace_log(trace_log: &TraceLogSwitch, file: Option<PathBuf>) -> Result<(), String> {
    let name = file.clone().unwrap_or_default();
    trace_log
        .set(file)
        .map_err(|error| format!("white_list.file: cannot write {}: {error}", name.display()))
}
