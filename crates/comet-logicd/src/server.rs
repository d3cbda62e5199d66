//! The handle of `comet logic`: start it, read its addresses, end it.

use std::fmt;
use std::mem::take;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use comet_logic::AnyAuthenticator;
use comet_ops::{CertificatesInUse, ServiceManager};
use comet_push::{CallLimits, ClientEndpoint, http_api, node_routes, push_routes};
use comet_router::Store;
use comet_serve::{
    AccessControl, AccessLog, Address, ApiTls, BearerToken, CallCounts, GRPC_CONNECTIONS,
    GateLimits, Gates, GrpcApi, HTTP_CONNECTIONS, Listener, Phase, STAT_CONNECTIONS, Servers,
    StartError, listen, request_bytes, spawn, stopped,
};
use comet_wire::goim::logic::logic_server::LogicServer as Service;
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;

use crate::comet::CometOptions;
use crate::comets::Comets;
use crate::desired_comets::{DesiredComets, DiscoveredComets};
use crate::nodes::Nodes;
use crate::service::LogicService;
use crate::stat::Stat;
use crate::{health, sessions, stat};

/// Longest request, bytes, both compressed and uncompressed: the rooms of a comet.
const REQUEST_MAX: usize = 64 << 20;

/// How long a request may take to arrive: such a list over a slow line.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// The name of the thread, also in errors.
const THREAD: &str = "logic";

/// The settings of `comet logic`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of `goim.logic.Logic` (`logic_server.grpc`); port 0 takes a free one.
    pub grpc: Vec<Address>,
    /// Addresses of the HTTP push API (`logic_server.http`); port 0 takes a free one.
    pub http: Vec<Address>,
    /// Addresses of health and metrics (`logic_server.stat`); port 0 takes a free one.
    pub stat: Vec<Address>,
    /// TLS of these addresses and of comets (`api_tls`).
    pub tls: ApiTls,
    /// Access control of callers (`logic_server.tokens`).
    pub access: Arc<AccessControl>,
    /// Whether calls of the HTTP push API are written to the log (`push.access_log`).
    pub access_log: Arc<AccessLog>,
    /// The token for calls to comets (`logic_server.comet_token`).
    pub comet_token: BearerToken,
    /// The comets (`logic_server.comets`, `logic_server.nodes`).
    pub comets: Vec<CometOptions>,
    /// The settings about comets for clients. Comets are told its heartbeat as the silence that ends a connection; it
    /// is never zero, because goim's comet would close every connection at once.
    pub node: ClientEndpoint,
    /// Longest body of a pushed frame, bytes.
    pub frame_max: usize,
    /// Most keys, users, or rooms asked about, in one call.
    pub keys_max: usize,
    /// How long a comet may take for a push; its answer may take a second more.
    pub call_timeout: Duration,
    /// Name of this service in metrics.
    pub server_id: String,
    /// Version of this service in metrics.
    pub version: &'static str,
    /// Files that the process may open.
    pub open_files: u64,
}

/// A running `comet logic`. Dropping this without [`LogicServer::stop`] also ends its thread, but does not wait for it.
pub struct LogicServer {
    grpc: Vec<Address>,
    http: Vec<Address>,
    stat: Vec<Address>,
    access: Arc<AccessControl>,
    access_log: Arc<AccessLog>,
    tls: ApiTls,
    certificates: Arc<CertificatesInUse>,
    comets: watch::Sender<DesiredComets>,
    authenticator: AnyAuthenticator,
    phase: watch::Sender<Phase>,
    thread: JoinHandle<()>,
}

impl LogicServer {
    /// Listens at every address and starts the thread that serves them all.
    ///
    /// # Errors
    /// If an address is in use, or the thread cannot be made.
    pub fn start(
        mut options: Options,
        authenticator: AnyAuthenticator,
        sessions: Store,
    ) -> Result<Self, StartError> {
        let grpc = listen("logic_server.grpc", &options.grpc, &options.tls)?;
        let http = listen("logic_server.http", &options.http, &options.tls)?;
        let stat = listen("logic_server.stat", &options.stat, &options.tls)?;
        if options.access.is_open() {
            for warning in exposure(
                &authenticator,
                options.tls.open_to_all(&grpc.addresses),
                options.tls.open_to_all(&http.addresses),
            ) {
                log::warn!("{warning}");
            }
        }
        let (access, tls) = (Arc::clone(&options.access), options.tls.clone());
        let access_log = Arc::clone(&options.access_log);
        let certificates = Arc::<CertificatesInUse>::default();
        let configured = take(&mut options.comets);
        let (comets, desired) =
            watch::channel(DesiredComets { configured, ..DesiredComets::default() });
        let (phase, phases) = watch::channel(Phase::Ready);
        let servers = Assembly {
            grpc: grpc.listeners,
            http: http.listeners,
            stat: stat.listeners,
            options,
            authenticator: authenticator.clone(),
            certificates: Arc::clone(&certificates),
            sessions,
            comets: desired,
            phase: phases,
        };
        let thread = spawn(THREAD, Vec::new(), || servers.start())?;
        Ok(Self {
            grpc: grpc.addresses,
            http: http.addresses,
            stat: stat.addresses,
            access,
            access_log,
            tls,
            certificates,
            comets,
            authenticator,
            phase,
            thread,
        })
    }

    /// The addresses of `goim.logic.Logic`, with real ports.
    #[must_use]
    pub fn grpc_addrs(&self) -> &[Address] {
        &self.grpc
    }

    /// The addresses of the HTTP push API, with real ports.
    #[must_use]
    pub fn http_addrs(&self) -> &[Address] {
        &self.http
    }

    /// The addresses of health and metrics, with real ports.
    #[must_use]
    pub fn stat_addrs(&self) -> &[Address] {
        &self.stat
    }

    /// Replaces the tokens that callers need.
    pub fn set_tokens(&self, tokens: Vec<String>) {
        self.access.set_tokens(tokens);
    }

    /// Sets whether calls of the push API are logged.
    pub fn set_access_log(&self, is_on: bool) {
        self.access_log.set(is_on);
    }

    /// Replaces the configured comets. Calls under way to a removed one continue to their end.
    pub fn set_comets(&self, comets: Vec<CometOptions>) {
        self.comets.send_modify(|desired| desired.configured = comets);
    }

    /// The handle that sets the comets found in discovery. Pushes go to them in addition to the configured ones.
    #[must_use]
    pub fn discovered(&self) -> DiscoveredComets {
        DiscoveredComets(self.comets.clone())
    }

    /// Its TLS settings, which can be read again.
    #[must_use]
    pub fn tls(&self) -> &ApiTls {
        &self.tls
    }

    /// The certificates that callers are shown, for metrics and warnings. Empty at the start.
    #[must_use]
    pub fn certificates(&self) -> &CertificatesInUse {
        &self.certificates
    }

    /// The check of tokens; its keys can be changed.
    #[must_use]
    pub fn authenticator(&self) -> &AnyAuthenticator {
        &self.authenticator
    }

    /// Ends it and waits for its thread; calls under way get a second to end.
    ///
    /// # Panics
    /// If the thread panicked.
    pub fn stop(self) {
        self.phase.send_replace(Phase::Stopped);
        self.thread.join().expect("the thread of logic does not panic");
    }
}

impl fmt::Debug for LogicServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogicServer")
            .field("grpc", &self.grpc)
            .field("http", &self.http)
            .field("stat", &self.stat)
            .finish_non_exhaustive()
    }
}

/// A warning for each of these addresses, which all other hosts may call: what a caller may do there.
fn exposure<'a>(
    authenticator: &AnyAuthenticator,
    grpc: impl Iterator<Item = &'a Address>,
    http: impl Iterator<Item = &'a Address>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for address in grpc {
        if matches!(authenticator, AnyAuthenticator::Open(_)) {
            warnings.push(format!(
                "logic_server.grpc: {address} is not loopback and token.kind is \"open\": tokens \
                 are not verified, so clients choose their own identity"
            ));
        }
        warnings.push(format!(
            "logic_server.grpc: {address} is not loopback, and callers are not authenticated: any of \
             them can begin and end sessions"
        ));
    }
    for address in http {
        warnings.push(format!(
            "logic_server.http: {address} is not loopback, and callers are not authenticated: any of \
             them can push"
        ));
    }
    warnings
}

/// Everything that the thread owns.
struct Assembly {
    grpc: Vec<Listener>,
    http: Vec<Listener>,
    stat: Vec<Listener>,
    options: Options,
    authenticator: AnyAuthenticator,
    certificates: Arc<CertificatesInUse>,
    sessions: Store,
    comets: watch::Receiver<DesiredComets>,
    phase: watch::Receiver<Phase>,
}

impl Assembly {
    /// Starts serving; the future runs until [`Phase::Stopped`].
    fn start(self) -> Result<impl Future<Output = ()>, StartError> {
        let Self {
            grpc,
            http,
            stat,
            options,
            authenticator,
            certificates,
            sessions,
            comets: desired,
            phase,
        } = self;
        let bounds = CallLimits {
            frame_max: options.frame_max,
            keys_max: options.keys_max,
            timeout: options.call_timeout,
        };
        let sessions = Arc::new(sessions);
        let counts = Arc::new(CallCounts::default());
        let comets = Comets::new(options.comet_token.clone(), Arc::clone(&sessions), bounds);
        let comets = Arc::new(comets);
        comets.set_list(desired.borrow().clone());
        let monitored = health::monitor(Arc::clone(&comets), desired);
        let told = health::tell(Arc::clone(&comets));
        let list = Nodes { comets: Arc::clone(&comets), domain: options.node.domain.clone() };
        let service = LogicService {
            authenticator,
            sessions: Arc::clone(&sessions),
            room_sums: Arc::default(),
            nodes: list.clone(),
            node: options.node.clone(),
            counts: Arc::clone(&counts),
        };
        let calls = push_routes(Arc::clone(&comets), &counts)
            .merge(node_routes(Arc::new(list), options.node.clone(), &counts))
            .merge(sessions::route(&comets, &counts));
        let calls = http_api(calls);
        let gates = Arc::new(Gates::new(options.open_files, request_bytes(REQUEST_MAX)));
        let Options { server_id, version, access, access_log, .. } = options;
        let stat_gates = Arc::clone(&gates);
        let stat_page =
            Stat { sessions, comets, counts, certificates, gates: stat_gates, server_id, version };
        let pages = stat::router(stat_page, phase.clone());
        let mut servers = Servers::new(phase.clone());
        let logic = Service::new(service)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(REQUEST_MAX);
        let api = GrpcApi::default().report("/goim.logic.Logic/RenewOnline").service(logic);
        let rooms = GateLimits {
            connections: GRPC_CONNECTIONS,
            request_max: REQUEST_MAX,
            request_time: REQUEST_TIME,
        };
        let pushes = GateLimits {
            connections: HTTP_CONNECTIONS,
            request_max: bounds.frame_max,
            request_time: bounds.timeout,
        };
        let logic_gate = gates.gate("logic_server.grpc", rooms, &access);
        let push_gate = gates.logged_gate("logic_server.http", pushes, &access, &access_log);
        let stat_gate = gates.pages("logic_server.stat", STAT_CONNECTIONS, &access);
        servers
            .grpc(&logic_gate, grpc, api, comet_wire::DESCRIPTORS)
            .and_then(|()| servers.http(&push_gate, http, &calls))
            .and_then(|()| servers.http(&stat_gate, stat, &pages))
            .map_err(|error| StartError::Thread { thread: THREAD, error })?;
        Ok(async move {
            tokio::select! {
                never = monitored => match never {},
                never = told => match never {},
                never = ServiceManager::from_environment().stay_alive() => match never {},
                () = stopped(phase) => {}
            }
            servers.finish().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use comet_logic::{Algorithm, ClaimNames, Jwt, JwtOptions, KeyFile, UnverifiedTokens};

    use super::*;

    #[test]
    fn exposed_listeners_without_authentication_are_warned_of() {
        let open = AnyAuthenticator::Open(UnverifiedTokens);
        let keys = vec![KeyFile { name: "secret".to_owned(), bytes: vec![b'x'; 32] }];
        let jwt = Jwt::new(JwtOptions {
            algorithms: vec![Algorithm::Hs256],
            keys,
            urls: 0,
            issuer: None,
            audience: None,
            claims: ClaimNames::default(),
            ends_connections: true,
        });
        let jwt = AnyAuthenticator::Jwt(jwt.unwrap().into());
        let outside = ["192.0.2.1:7170".parse().unwrap()];
        let check = |authenticator, grpc: &[Address], http: &[Address], expected: &[&str]| {
            let warnings = exposure(authenticator, grpc.iter(), http.iter());
            assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
            for (warning, expected) in warnings.iter().zip(expected) {
                assert!(warning.contains(expected), "{warning}");
            }
        };
        check(&open, &[], &[], &[]);
        check(&open, &outside, &[], &["token.kind is \"open\"", "begin and end sessions"]);
        check(&jwt, &outside, &[], &["begin and end sessions"]);
        check(&jwt, &[], &outside, &["can push"]);
    }
}
