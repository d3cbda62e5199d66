//! The start of a server in two steps. The first needs no connections, so it fails before any client is served; the
//! second starts the threads. In a live upgrade the former process still serves between the two.

use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use comet_config::Config;
use comet_control::{AccessControl, ApiTls, ClusterOptions, Control, ControlWake, Options};
use comet_core::{Limits, Settings, ShardId};
use comet_listen::Inherited;
use comet_logic::{AnyAuthenticator, UnverifiedTokens};
use comet_mesh::{EventFd, Pulse, Wake, inbox, priority_inbox};
use comet_net::{Core, CoreSettings, MeshEndpoints, Tls};
use comet_ops::{Certificate, CertificatesInUse};
use comet_serve::AccessLog;

use crate::StartError;
use crate::api_tls;
use crate::jwks::{self, FetchedSet};
use crate::listeners::{self, Listeners};
use crate::logic::authenticator;
use crate::nats;
use crate::options::{Opened, control_options, limits, logic, smaller_rings, warnings};
use crate::span_export::SpanExport;

/// Reports that may wait for the control thread.
pub(crate) const REPORTS: usize = 65_536;
/// How long a core may take to set up its ring.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The parts of a server before it has connections.
pub(crate) struct Prepared {
    pub(crate) config: Config,
    pub(crate) listeners: Listeners,
    pub(crate) api_tls: ApiTls,
    /// The authenticator of embedded logic.
    pub(crate) authenticator: AnyAuthenticator,
    /// Descriptors that the limit on open files leaves for connections.
    pub(crate) open_files: u64,
    limits: Arc<Limits>,
    ring_entries: u32,
    cluster: Option<ClusterOptions>,
    inherited: Option<Inherited>,
}

/// The threads of a server.
#[derive(Debug)]
pub(crate) struct Threads {
    pub(crate) control: Control,
    pub(crate) cores: Vec<Core>,
    /// The zero of the threads' clock.
    pub(crate) epoch: Instant,
    /// The thread that sends spans to a collector; `None`: no push is traced.
    spans: Option<SpanExport>,
}

/// The parts of the threads that can be changed while they run.
#[derive(Debug)]
pub(crate) struct Handles {
    pub(crate) certificates: Arc<CertificatesInUse>,
    pub(crate) push_access: Arc<AccessControl>,
    pub(crate) monitor_access: Arc<AccessControl>,
    pub(crate) access_log: Arc<AccessLog>,
}

impl Prepared {
    /// Tries the machine, reads the files and opens the listeners. `inherited` has those of a former process, if any.
    /// The server then starts as its successor, with the key sets that the former process has fetched.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) fn new(
        config: &Config,
        inherited: Option<Inherited>,
        key_sets: &[FetchedSet],
    ) -> Result<Self, StartError> {
        let count = config.server.cores.len();
        let open_files = comet_net::probe(config.limits.ring_entries, count)?;
        let authenticator = if config.logic.addrs.is_empty() {
            authenticator(&config.token).map_err(StartError::Logic)?
        } else {
            // This one is never used: another process checks the tokens, and has the keys.
            AnyAuthenticator::Open(UnverifiedTokens)
        };
        for warning in warnings(config, open_files) {
            log::warn!("{warning}");
        }
        let limits = Arc::new(limits(config, open_files));
        let connections = count as u64 * u64::from(limits.connections);
        if !comet_net::reserve_descriptors(connections, count) {
            log::debug!("the table of descriptors grows while connections come");
        }
        let ring_entries = comet_net::fit_ring(config.limits.ring_entries, count);
        if ring_entries < config.limits.ring_entries {
            log::warn!("{}", smaller_rings(ring_entries, config));
        }
        let api_tls =
            api_tls::load(config, api_tls::CallingProcess::Comet).map_err(StartError::ApiTls)?;
        let listeners = listeners::open(config, &inherited.clone().unwrap_or_default())?;
        jwks::take_over(&authenticator, &config.token, key_sets);
        jwks::fetch(&authenticator, &config.token);
        let cluster = nats::cluster(config).map_err(StartError::Nats)?;
        Ok(Self {
            config: config.clone(),
            listeners,
            api_tls,
            authenticator,
            open_files,
            limits,
            ring_entries,
            cluster,
            inherited,
        })
    }

    /// Starts the threads. If a former process is still serving, its clock shows `former_clock`, and the threads do
    /// nothing until they are told.
    ///
    /// # Errors
    /// The first failure. Nothing is left running, except after [`StartError::Silent`]: cores then end as soon as they can.
    pub(crate) fn start(
        &mut self,
        former_clock: Option<Duration>,
    ) -> Result<(Threads, Handles), StartError> {
        let count = self.config.server.cores.len();
        let shards = u16::try_from(count).expect("there are no more CPUs than that");
        let now = Instant::now();
        // Both processes use the clock of the machine.
        let epoch = former_clock.and_then(|clock| now.checked_sub(clock)).unwrap_or(now);
        let config = &self.config;
        let wake = Arc::new(ControlWake::default());
        let (control_sender, reports) = inbox(REPORTS, Arc::clone(&wake) as Arc<dyn Wake>);
        let mut peers = Vec::with_capacity(count);
        let mut inboxes = Vec::with_capacity(count);
        let mut pulses = Vec::with_capacity(count);
        for _ in 0..count {
            let bell = Arc::new(EventFd::new().map_err(StartError::System)?);
            let waker: Arc<dyn Wake> = bell.clone();
            let (sender, inbox) = priority_inbox(config.limits.mesh_inbox, waker);
            peers.push(sender);
            // A new process continues the clock of the former one, which began before its cores.
            let begin_ms = u64::try_from(epoch.elapsed().as_millis()).unwrap_or(0);
            pulses.push(Arc::new(Pulse::new(bell.clone(), begin_ms)));
            inboxes.push((inbox, bell));
        }
        let certificates = Arc::<CertificatesInUse>::default();
        let tls = self.listeners.tls.as_ref();
        certificates.replace(all_certificates(tls, self.api_tls.certificate(), config));
        let opened = Opened {
            addresses: &self.listeners.addresses,
            certificates: &certificates,
            api_tls: &self.api_tls,
            open_files: self.open_files,
        };
        let (spans, traced) = SpanExport::start(config).map_err(StartError::System)?.unzip();
        let options = control_options(config, &opened, &self.limits, epoch, pulses.clone());
        let inherited = self.inherited.take();
        let options = Options { traced, inherited, ..options };
        let handles = Handles {
            certificates,
            push_access: Arc::clone(&options.push_access),
            monitor_access: Arc::clone(&options.monitor_access),
            access_log: Arc::clone(&options.access_log),
        };
        let cluster = self.cluster.take();
        let has_other_hosts = cluster.is_some();
        let control = Control::start(options, wake, peers.clone(), reports, cluster);
        let control = control.map_err(StartError::Control)?;
        let cores = Vec::with_capacity(count);
        let mut threads = Threads { control, cores, spans, epoch };
        let (ready, is_ready) = mpsc::channel();
        let logic = logic(&config.logic);
        // Keys of the std hasher are random for each process.
        let hash_seed = RandomState::new().hash_one("comet");
        let listeners = mem::take(&mut self.listeners.cores)
            .into_iter()
            .zip(mem::take(&mut self.listeners.callers.cores));
        for ((((index, cpu), (inbox, bell)), pulse), (listeners, caller_listeners)) in
            (0..).zip(&config.server.cores).zip(inboxes).zip(pulses).zip(listeners)
        {
            let shard = ShardId(index);
            let settings = CoreSettings {
                cpu: Some(*cpu),
                shard: Settings {
                    shard,
                    shards,
                    limits: Arc::clone(&self.limits),
                    logic,
                    hash_seed,
                    has_other_hosts,
                },
                listeners,
                caller_listeners,
                ring_entries: self.ring_entries,
                recv_buffers: config.limits.recv_buffers,
                recv_buffer_size: config.limits.recv_buffer_size as usize,
                spin: config.server.spin,
                busy_poll: config.server.busy_poll,
                epoch,
                is_frozen: former_clock.is_some(),
            };
            let ports = MeshEndpoints {
                inbox,
                wakeup: bell,
                pulse,
                peers: peers.clone(),
                control: control_sender.clone(),
            };
            match Core::start(settings, ports, self.authenticator.clone(), ready.clone()) {
                Ok(core) => threads.cores.push(core),
                Err(error) => return Err(threads.give_up(StartError::Core(error))),
            }
        }
        drop(ready);
        for _ in 0..count {
            match is_ready.recv_timeout(START_TIMEOUT) {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(threads.give_up(StartError::Core(error))),
                Err(RecvTimeoutError::Timeout) => return Err(threads.abandon()),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(threads.explain_end(&config.server.cores));
                }
            }
        }
        Ok((threads, handles))
    }
}

impl Threads {
    /// Ends everything. The error is a core that had failed, and its cause.
    pub(crate) fn stop(self) -> Result<(), (ShardId, String)> {
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

    pub(crate) fn give_up(self, error: StartError) -> StartError {
        // Another failed core would report the same.
        let _ = self.stop();
        error
    }

    /// Handles a core that did not report in time, and may not end either. All cores are stopped without waiting for
    /// them.
    fn abandon(self) -> StartError {
        for core in self.cores {
            std::thread::spawn(move || core.stop());
        }
        self.control.stop();
        StartError::Silent(START_TIMEOUT)
    }

    /// Handles a core that ended before it reported.
    fn explain_end(self, cpus: &[usize]) -> StartError {
        let (shard, cause) = self.stop().expect_err("only a core that failed says nothing");
        let cpu = Some(cpus[usize::from(shard.0)]);
        StartError::Core(comet_net::CoreStartError { shard, cpu, cause })
    }
}

/// The certificates that clients are shown, and that of the APIs.
pub(crate) fn all_certificates(
    tls: Option<&Tls>,
    api: Option<Vec<u8>>,
    config: &Config,
) -> Vec<Certificate> {
    let clients = tls.map(|tls| listeners::certificates(tls, config));
    clients.unwrap_or_default().into_iter().chain(api_tls::certificate(api, config)).collect()
}
