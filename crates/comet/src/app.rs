//! Start, run, drain: the life of the server.

mod live_upgrade;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use comet_config::{Config, Machine};
use comet_control::{Address, ApiTls, CensusTaker, TraceLogSwitch};
use comet_core::ShardId;
use comet_logic::AnyAuthenticator;
use comet_net::Tls;
use comet_ops::{Certificate, CertificatesInUse};
use comet_serve::TlsReload;

use crate::StartError;
use crate::api_tls;
use crate::discovery::Discovery;
use crate::listeners::{self, Addresses, CallerListeners, Listeners, Passing};
use crate::options::{drain_plan, limits, memory_ceiling, warnings};
use crate::reload::{self, Reloaded};
use crate::start::{Handles, Prepared, Threads, all_certificates};
use crate::token_keys;

/// How long a core that has taken over may need to thaw.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub struct App {
    threads: Threads,
    handles: Handles,
    /// The registration; `None`: there is none, or not yet.
    discovery: Option<Discovery>,
    addresses: Addresses,
    callers: CallerListeners,
    passing: Passing,
    tls: Option<Tls>,
    api_tls: ApiTls,
    /// The authenticator of embedded logic.
    authenticator: AnyAuthenticator,
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
    /// Starts everything that `config` names. When this returns, every listener accepts and `/healthz` reports it.
    ///
    /// # Errors
    /// The first failure. Nothing is left running, except after [`StartError::Silent`]: cores then end as
    /// soon as they can.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let mut prepared = Prepared::new(config, None, &[])?;
        let (threads, handles) = prepared.start(None)?;
        let mut app = Self::new(prepared, threads, handles);
        app.threads.control.set_ready();
        match app.register() {
            Ok(()) => Ok(app),
            Err(error) => {
                let _ = app.stop();
                Err(StartError::System(error))
            }
        }
    }

    fn new(prepared: Prepared, threads: Threads, handles: Handles) -> Self {
        let Prepared { config, listeners, api_tls, authenticator, open_files, .. } = prepared;
        let Listeners { callers, addresses, tls, passing, cores: _ } = listeners;
        Self {
            threads,
            handles,
            discovery: None,
            addresses,
            callers,
            passing,
            tls,
            api_tls,
            authenticator,
            config,
            open_files,
        }
    }

    /// Registers in discovery, and logs what was started.
    fn register(&mut self) -> std::io::Result<()> {
        let census = self.threads.control.census_taker();
        if let Some(discovery) =
            Discovery::start(&self.config, self.threads.control.grpc_addrs(), census)?
        {
            self.threads.control.set_listing(discovery.listing());
            self.discovery = Some(discovery);
        }
        self.announce(&self.config);
        self.handles.certificates.warn();
        if self.config.logic.addrs.is_empty()
            && matches!(self.authenticator, AnyAuthenticator::Open(_))
        {
            log::warn!(
                "embedded logic does not verify tokens (token.kind is \"open\"): clients choose their own identity"
            );
        }
        Ok(())
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
        self.threads.control.grpc_addrs()
    }

    /// Addresses of the HTTP push API.
    #[must_use]
    pub fn http_addrs(&self) -> &[Address] {
        self.threads.control.http_addrs()
    }

    /// Addresses of the frames for push callers.
    #[must_use]
    pub fn frames_addrs(&self) -> &[Address] {
        &self.callers.addresses
    }

    /// Addresses of health and metrics.
    #[must_use]
    pub fn stat_addrs(&self) -> &[Address] {
        self.threads.control.stat_addrs()
    }

    /// A handle that counts the clients, for a thread that may wait.
    pub(crate) fn census_taker(&self) -> CensusTaker {
        self.threads.control.census_taker()
    }

    /// The configuration in effect.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Opens the file of the trace log again by its name, because the old file may have been moved away.
    ///
    /// # Errors
    /// If that fails, as a sentence.
    pub fn reopen(&self) -> Result<(), String> {
        self.set_trace_log(&self.config)
    }

    /// A function that does the same as [`App::reopen`], for use while the server drains.
    pub(crate) fn reopener(&self) -> impl Fn() -> Result<(), String> + use<> {
        let (trace_log, file) =
            (self.threads.control.trace_log(), self.config.white_list.file.clone());
        move || set_trace_log(&trace_log, file.clone())
    }

    /// Adopts the keys of `newer` that can change at run time. Returns what changed and what needs a restart.
    ///
    /// # Errors
    /// If any of them cannot be used, one sentence per mistake; then nothing changes.
    pub fn reload(&mut self, newer: &Config) -> Result<Reloaded, String> {
        let adopted = self.config.adopt(newer).map_err(|mistakes| reload::misfit(&mistakes))?;
        let mut reloaded = Reloaded::compare(&self.config, newer);
        if adopted.logic.addrs != self.config.logic.addrs {
            // Checked first: nothing changes if an address is invalid.
            for address in &adopted.logic.addrs {
                comet_serve::Peer::new(address, &self.api_tls, adopted.logic.timeout)
                    .map_err(|bad| comet_control::StartError::LogicAddress(bad).to_string())?;
            }
        }
        let token_keys = token_keys::reload(&self.authenticator, &adopted.token.jwt_keys)?;
        if adopted.white_list.file != self.config.white_list.file {
            self.set_trace_log(&adopted)?;
        }
        // The files are read again even if their names are the same, because their content may have changed.
        let tls_reload = match self.reload_tls(&adopted) {
            Ok((certificates, tls_reload)) => {
                reloaded.certificates = certificates;
                tls_reload
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
            let set = self.threads.control.set_logic_addresses(&adopted.logic.addrs);
            set.expect("each address was tried above");
        }
        self.threads.control.configure(limits(&adopted, self.open_files));
        self.threads.control.set_memory_ceiling(memory_ceiling(&adopted));
        self.threads.control.set_drain_plan(drain_plan(&adopted));
        self.handles.access_log.set(adopted.push.access_log);
        // Of two changes, the one that closes takes effect before the other opens.
        let changes = [
            (&self.handles.push_access, &adopted.push.tokens),
            (&self.handles.monitor_access, &adopted.monitor.tokens),
        ];
        for (access, tokens) in changes.iter().filter(|(_, tokens)| !tokens.is_empty()) {
            access.set_tokens((*tokens).clone());
        }
        tls_reload.apply();
        for (access, tokens) in changes {
            access.set_tokens(tokens.clone());
        }
        self.config = adopted;
        Ok(reloaded)
    }

    /// Returns the certificates that are new to clients and callers, and the reread files of the APIs, which are not
    /// in use yet.
    fn reload_tls(&self, config: &Config) -> Result<(Vec<Certificate>, TlsReload), String> {
        let tls_reload =
            api_tls::prepare_reload(&self.api_tls, config, api_tls::CallingProcess::Comet)?;
        if let Some(tls) = &self.tls {
            listeners::reload(tls, config).map_err(|error| error.to_string())?;
        }
        let all = all_certificates(self.tls.as_ref(), tls_reload.certificate(), config);
        Ok((self.handles.certificates.replace(all), tls_reload))
    }

    /// The certificates that clients and callers are shown.
    #[must_use]
    pub fn certificates(&self) -> &CertificatesInUse {
        &self.handles.certificates
    }

    /// Makes a new key for session tickets, if the present one is old enough.
    pub(crate) fn rotate_ticket_keys(&self) {
        if let Some(tls) = &self.tls {
            tls.rotate_ticket_keys(Instant::now());
        }
    }

    fn set_trace_log(&self, config: &Config) -> Result<(), String> {
        set_trace_log(&self.threads.control.trace_log(), config.white_list.file.clone())
    }

    /// Addresses of profiles, of the log level and of the trace list.
    #[must_use]
    pub fn debug_addrs(&self) -> &[Address] {
        self.threads.control.debug_addrs()
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
        let drained = self.threads.control.drain(drain_plan(&self.config));
        if let Err((shard, cause)) = self.stop() {
            panic!("core {} failed: {cause}", shard.0);
        }
        Ended { drained: drained.done, cores: drained.shards }
    }

    /// Ends everything. The error is a core that had failed, and its cause.
    fn stop(self) -> Result<(), (ShardId, String)> {
        // Closed first, so that no client connects to a socket that is no longer accepted from.
        drop(self.passing);
        if let Some(discovery) = self.discovery {
            discovery.finish();
        }
        self.threads.stop()
    }

    fn announce(&self, config: &Config) {
        log::info!(
            "comet {} as {:?}: {} cores, {} connections a core",
            env!("CARGO_PKG_VERSION"),
            config.server.id,
            self.threads.cores.len(),
            limits(config, self.open_files).connections,
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

fn set_trace_log(trace_log: &TraceLogSwitch, file: Option<PathBuf>) -> Result<(), String> {
    let name = file.clone().unwrap_or_default();
    trace_log
        .set(file)
        .map_err(|error| format!("white_list.file: cannot write {}: {error}", name.display()))
}
