//! Tries the resources that a start needs, before anything starts, and releases them at once, so that all mistakes are
//! found together. `--check` ends here.

use std::env;
use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use comet_config::{Config, Token};
use comet_listen::{Address, Inherited, ListenError};
use comet_ops::{Certificate, OtherProcess, check_append, wait_until_released};
use comet_serve::Peer;

use crate::log_output::cannot_open;
use crate::logic::{self, authenticator};
use crate::options::{smaller_rings, warnings};
use crate::pid_file::{self, Holder};
use crate::{StartError, api_tls, listeners};

/// How long the kernel may take to release the addresses of a process that has ended.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// The step after the preflight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A start.
    Start,
    /// Nothing: `--check`. Resources held by the running server that will be restarted or reloaded are not errors then.
    /// That server is the process that holds the pid file, or without one a process with the same arguments.
    Check,
}

/// Findings of a preflight without mistakes.
#[derive(Debug)]
pub struct Preflight {
    /// Files that the process may open, as returned by [`comet_net::probe`].
    pub open_files: u64,
    /// Settings that work, but not as they should; sentences.
    pub warnings: Vec<String>,
}

/// Tries the resources that a start of the server needs.
///
/// # Errors
/// Every mistake, a line each.
pub fn server(config: &Config, purpose: Purpose) -> Result<Preflight, String> {
    let findings = Findings::of(purpose);
    check_server(config, findings, &Inherited::default())
}

/// Tries the resources that a process needs which takes over from another one. That one holds the pid file and the
/// `inherited` sockets.
///
/// # Errors
/// As [`server`].
pub(crate) fn successor(config: &Config, inherited: &Inherited) -> Result<Preflight, String> {
    let mut findings = Findings::of(Purpose::Start);
    findings.is_successor = true;
    check_server(config, findings, inherited)
}

fn check_server(
    config: &Config,
    mut findings: Findings,
    inherited: &Inherited,
) -> Result<Preflight, String> {
    if let Some(path) = &config.server.pid_file
        && !findings.is_successor
    {
        findings.pid_file(path);
    }
    let (entries, cores) = (config.limits.ring_entries, config.server.cores.len());
    let open_files = findings.take(comet_net::probe(entries, cores)).unwrap_or_default();
    if config.logic.addrs.is_empty() {
        findings.token_keys(&config.token);
    }
    findings.certificates(config);
    if let Some(tls) = findings
        .take(api_tls::load(config, api_tls::CallingProcess::Comet).map_err(StartError::ApiTls))
    {
        for address in &config.logic.addrs {
            let peer = Peer::new(address, &tls, config.logic.timeout);
            findings.take(peer.map_err(comet_control::StartError::LogicAddress));
        }
    }
    for (setting, addresses) in listeners::settings(config) {
        for &address in addresses {
            if inherited.has(setting, &address.into()) {
                continue;
            }
            let check = || comet_net::check_bind(address, &listeners::options(config));
            let mut bound = check();
            if let Err(comet_net::ListenError::Listen(error)) = &bound
                && findings.is_released(error)
            {
                bound = check();
            }
            if let Err(comet_net::ListenError::Listen(error)) = &bound
                && findings.is_held(error)
            {
                continue;
            }
            findings.take(bound.map_err(|source| StartError::Listen { setting, source }));
        }
    }
    let (push, monitor) = (&config.push, &config.monitor);
    for (setting, addresses) in [
        ("push.grpc", &push.grpc),
        ("push.http", &push.http),
        ("push.frames", &push.frames),
        ("monitor.stat", &monitor.stat),
        ("monitor.pprof", &monitor.pprof),
    ] {
        let is_new = |address: &&Address| !inherited.has(setting, address);
        findings.callers(setting, addresses.iter().filter(is_new));
    }
    findings.log_file(&config.log);
    if let Some(path) = &config.white_list.file {
        let path = path.clone();
        let checked = check_append(&path);
        findings.take(checked.map_err(|error| comet_control::StartError::TraceLog { path, error }));
    }
    if open_files > 0 {
        findings.warnings.extend(warnings(config, open_files));
        let fitting = comet_net::fit_ring(entries, cores);
        if fitting < entries {
            findings.warnings.push(smaller_rings(fitting, config));
        }
    }
    findings.conclude(open_files)
}

/// Tries the resources that a start of `comet logic` needs.
///
/// # Errors
/// As [`server`].
pub fn logic(config: &Config, purpose: Purpose) -> Result<Preflight, String> {
    let mut findings = Findings::of(purpose);
    let settings = &config.logic_server;
    findings.token_keys(&config.token);
    findings.take(logic::store(settings));
    if let Some(tls) = findings.take(api_tls::load(config, api_tls::CallingProcess::Logic)) {
        for comet in logic::comets(settings, &tls) {
            findings.take(comet);
        }
    }
    findings.callers("logic_server.grpc", &settings.grpc);
    findings.callers("logic_server.http", &settings.http);
    findings.callers("logic_server.stat", &settings.stat);
    findings.log_file(&config.log);
    findings.warnings.extend(logic::early_expiry(config));
    findings.conclude(logic::open_files())
}

struct Findings {
    purpose: Purpose,
    /// For all addresses together.
    release_deadline: Instant,
    /// The running server; `None`: not looked for yet, or not found.
    running: Option<OtherProcess>,
    is_looked_for: bool,
    /// This process takes over from another one.
    is_successor: bool,
    mistakes: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    fn of(purpose: Purpose) -> Self {
        Self {
            purpose,
            release_deadline: Instant::now() + RELEASE_TIMEOUT,
            running: None,
            is_looked_for: purpose == Purpose::Start,
            is_successor: false,
            mistakes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn take<T>(&mut self, tried: Result<T, impl Display>) -> Option<T> {
        tried.map_err(|error| self.mistakes.push(error.to_string())).ok()
    }

    fn conclude(self, open_files: u64) -> Result<Preflight, String> {
        let Self { mistakes, mut warnings, .. } = self;
        if !mistakes.is_empty() {
            return Err(mistakes.join("\n"));
        }
        if let Some(running) = self.running {
            let note = "is running with this configuration, so what it holds is no mistake";
            warnings.push(format!("process {} {note}", running.id()));
        }
        Ok(Preflight { open_files, warnings })
    }

    fn pid_file(&mut self, path: &Path) {
        let Some(holder) = self.take(pid_file::holder(path)) else { return };
        self.is_looked_for = true;
        let Some(holder) = holder else { return };
        match (self.purpose, holder) {
            (Purpose::Check, Holder::Process(id)) => self.running = OtherProcess::with_id(id),
            (Purpose::Check, Holder::Unknown) => {}
            (Purpose::Start, holder) => self.mistakes.push(holder.refusal(path)),
        }
    }

    /// Whether the running server listens there.
    fn is_held(&mut self, error: &ListenError) -> bool {
        if error.source.kind() != std::io::ErrorKind::AddrInUse {
            return false;
        }
        if !self.is_looked_for {
            self.is_looked_for = true;
            let of_server = env::args_os().skip(1).filter(|argument| argument != "--check");
            self.running = OtherProcess::with_arguments(of_server);
        }
        self.running.as_ref().is_some_and(|running| running.listens_at(&error.address))
    }

    /// Whether the kernel released the address of a process that has ended, within the time for it.
    fn is_released(&self, error: &ListenError) -> bool {
        let is_in_use = error.source.kind() == std::io::ErrorKind::AddrInUse;
        match error.address {
            Address::Plain(address) | Address::Tls(address) if is_in_use => {
                wait_until_released(address, self.release_deadline)
            }
            _ => false,
        }
    }

    fn callers<'a>(
        &mut self,
        setting: &'static str,
        addresses: impl IntoIterator<Item = &'a Address>,
    ) {
        for address in addresses {
            let mut checked = comet_listen::check(address);
            if let Err(error) = &checked
                && self.is_released(error)
            {
                checked = comet_listen::check(address);
            }
            if let Err(source) = checked
                && !self.is_held(&source)
            {
                let error = comet_serve::StartError::Listen { setting, source };
                self.mistakes.push(error.to_string());
            }
        }
    }

    /// Checks each file separately, so that a mistake in one hides none in another.
    fn token_keys(&mut self, token: &Token) {
        for file in &token.jwt_keys {
            let alone = Token { jwt_keys: vec![file.clone()], ..token.clone() };
            self.take(authenticator(&alone));
        }
    }

    fn certificates(&mut self, config: &Config) {
        match listeners::tls(config) {
            Ok(None) if config.tls.certificates.is_empty() => {}
            // No listener needs them yet; one more listener would.
            Ok(None) => {
                if let Err(error) = listeners::load_tls(config) {
                    let mistakes = error.to_string().replace('\n', "; ");
                    self.warnings
                        .push(format!("no listener uses tls.certificates yet; {mistakes}"));
                }
            }
            Ok(Some(tls)) => {
                let certificates = listeners::certificates(&tls, config);
                self.warnings.extend(certificates.iter().filter_map(Certificate::warning));
            }
            Err(error) => self.mistakes.push(error.to_string()),
        }
    }

    fn log_file(&mut self, log: &comet_config::Log) {
        if let Some(path) = &log.file {
            self.take(check_append(path).map_err(|error| cannot_open(Some(path), &error)));
        }
    }
}
