//! `comet logic`: the logic service of other comets, and of goim's own.
//!
//! It serves `goim.logic.Logic` over gRPC, with health and reflection: who a client is, by an
//! [`AnyAuther`], and where its session is, in a [`Store`]. In front of the comets it knows it serves the
//! HTTP push API, with `/healthz` and `/metrics` beside it. It knows no shard and no client's socket.

mod comets;
pub(crate) mod nodes;
mod service;
mod stat;

pub(crate) use comets::Comets;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use comet_logic::AnyAuther;
use comet_router::Store;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::api::{self, Api, Bodies, Node};
use crate::grpc::Answers;
use crate::pushes::Bounds;
use crate::reach::Reach;
use crate::serve::{Phase, STOP_GRACE, incoming, report_health, serve_grpc, serve_http, stopped};
use crate::start::{self, StartError, exposed, listen};
use crate::wire;
use crate::wire::goim::logic::logic_server::LogicServer as Service;
use service::LogicService;
use stat::Stat;

/// Longest request, bytes, as it is on the wire and without its compression: the rooms of a comet.
const REQUEST_MAX: usize = 64 << 20;

/// How `comet logic` is to be set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of `goim.logic.Logic` (`logic_server.grpc`); port 0 takes a free one.
    pub grpc: Vec<SocketAddr>,
    /// Addresses of the HTTP push API (`logic_server.http`); port 0 takes a free one.
    pub http: Vec<SocketAddr>,
    /// Addresses of health and metrics (`logic_server.stat`); port 0 takes a free one.
    pub stat: Vec<SocketAddr>,
    /// Server id of each comet and `HOST:PORT` of its push service (`logic_server.comets`).
    pub comets: Vec<(String, String)>,
    /// What clients are told of the comets, and comets of the silence that ends a connection. That is
    /// never zero: goim's comet would close every connection at once.
    pub node: Node,
    /// Longest body of a pushed frame, bytes.
    pub frame_max: usize,
    /// Most keys, users, or rooms asked about, in one call.
    pub keys_max: usize,
    /// How long a comet may take over a push; it has a second more to say so.
    pub call_timeout: Duration,
    /// Name of this service in metrics.
    pub server_id: String,
    /// Version of this service in metrics.
    pub version: &'static str,
}

/// `comet logic`, running. Dropping it without [`LogicServer::stop`] ends its thread, too, but does not
/// wait.
pub struct LogicServer {
    grpc: Vec<SocketAddr>,
    http: Vec<SocketAddr>,
    stat: Vec<SocketAddr>,
    phase: watch::Sender<Phase>,
    thread: JoinHandle<()>,
}

impl LogicServer {
    /// Listens at every address and starts the thread that serves them all.
    ///
    /// # Errors
    /// If an address is taken, a comet's is none, or the thread cannot be made.
    pub fn start(options: Options, auther: AnyAuther, sessions: Store) -> Result<Self, StartError> {
        let (grpc, grpc_addrs) = listen("logic_server.grpc", &options.grpc)?;
        let (http, http_addrs) = listen("logic_server.http", &options.http)?;
        let (stat, stat_addrs) = listen("logic_server.stat", &options.stat)?;
        for warning in exposure(&auther, &grpc_addrs, &http_addrs) {
            log::warn!("{warning}");
        }
        let (phase, phases) = watch::channel(Phase::Ready);
        let servers = Servers { grpc, http, stat, options, auther, sessions, phase: phases };
        let thread = start::spawn("comet-logic", Vec::new(), || servers.start())?;
        Ok(Self { grpc: grpc_addrs, http: http_addrs, stat: stat_addrs, phase, thread })
    }

    /// Where `goim.logic.Logic` is, with real ports.
    #[must_use]
    pub fn grpc_addrs(&self) -> &[SocketAddr] {
        &self.grpc
    }

    /// Where the HTTP push API is, with real ports.
    #[must_use]
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where health and metrics are, with real ports.
    #[must_use]
    pub fn stat_addrs(&self) -> &[SocketAddr] {
        &self.stat
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

/// What whoever reaches these addresses may do, for each that other machines may reach.
fn exposure(auther: &AnyAuther, grpc: &[SocketAddr], http: &[SocketAddr]) -> Vec<String> {
    let mut warnings = Vec::new();
    for address in exposed(grpc) {
        if matches!(auther, AnyAuther::Open(_)) {
            warnings.push(format!(
                "logic_server.grpc: {address} is not loopback and token.kind is \"open\": every token \
                 is taken at its word, so whoever connects to a comet says who they are"
            ));
        }
        warnings.push(format!(
            "logic_server.grpc: {address} is not loopback, and nobody is asked who they are: whoever \
             reaches it may begin and end sessions"
        ));
    }
    for address in exposed(http) {
        warnings.push(format!(
            "logic_server.http: {address} is not loopback, and nobody is asked who they are: whoever \
             reaches it may push"
        ));
    }
    warnings
}

/// Everything the thread takes with it.
struct Servers {
    grpc: Vec<StdListener>,
    http: Vec<StdListener>,
    stat: Vec<StdListener>,
    options: Options,
    auther: AnyAuther,
    sessions: Store,
    phase: watch::Receiver<Phase>,
}

impl Servers {
    /// Starts serving; what is returned runs until [`Phase::Stopped`].
    fn start(self) -> Result<impl Future<Output = ()>, StartError> {
        let Self { grpc, http, stat, options, auther, sessions, phase } = self;
        let bounds = Bounds {
            frame_max: options.frame_max,
            keys_max: options.keys_max,
            timeout: options.call_timeout,
        };
        let sessions = Arc::new(sessions);
        let answers = Arc::new(Answers::default());
        let comets = Arc::new(Comets::new(&options.comets, Arc::clone(&sessions), bounds)?);
        let monitored = nodes::monitor(Arc::clone(&comets));
        let service = LogicService {
            auther,
            sessions: Arc::clone(&sessions),
            comets: Arc::clone(&comets),
            node: options.node.clone(),
            answers: Arc::clone(&answers),
        };
        let reporter = HealthReporter::new();
        let routes = routes(service, reporter.clone());
        let calls = api::router(Api {
            reach: Reach::Comets(Arc::clone(&comets)),
            answers: Arc::clone(&answers),
            bodies: Bodies::new(bounds),
            node: options.node,
            server_id: options.server_id.clone(),
            version: options.version,
            grpc: Vec::new(),
            phase: phase.clone(),
        });
        let Options { server_id, version, .. } = options;
        let pages =
            stat::router(Stat { sessions, comets, answers, server_id, version }, phase.clone());
        let listener = |listener: io::Result<TcpListener>| listener.map_err(StartError::Thread);
        let mut servers = JoinSet::new();
        for socket in grpc {
            let incoming = incoming(listener(TcpListener::from_std(socket))?);
            servers.spawn(serve_grpc(routes.clone(), incoming, phase.clone()));
        }
        let http = http.into_iter().map(|socket| (socket, &calls));
        for (socket, router) in http.chain(stat.into_iter().map(|socket| (socket, &pages))) {
            let socket = listener(TcpListener::from_std(socket))?;
            servers.spawn(serve_http(router.clone(), socket, phase.clone()));
        }
        let names = ["", Service::<LogicService>::NAME];
        servers.spawn(report_health(reporter, names, phase.clone()));
        Ok(async move {
            tokio::select! {
                never = monitored => match never {},
                () = stopped(phase) => {}
            }
            // Who still holds a stream open after the grace is cut off with the runtime.
            let _ = timeout(STOP_GRACE, servers.join_all()).await;
        })
    }
}

fn routes(service: LogicService, reporter: HealthReporter) -> Routes {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(Service::<LogicService>::NAME)
        .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
        .with_service_name(tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME)
        .build_v1()
        .expect("the descriptors come from the compiler of this build");
    let health = tonic_health::server::HealthService::from_health_reporter(reporter);
    let logic = Service::new(service)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(REQUEST_MAX);
    Routes::new(logic)
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection)
        .prepare()
}

#[cfg(test)]
mod tests {
    use comet_logic::{Algorithm, ClaimNames, Embedded, Jwt, JwtOptions, KeyFile};

    use super::*;

    #[test]
    fn what_others_can_reach_is_warned_of() {
        let open = AnyAuther::Open(Embedded);
        let keys = vec![KeyFile { name: "secret".to_owned(), bytes: vec![b'x'; 32] }];
        let jwt = Jwt::new(JwtOptions {
            algorithms: vec![Algorithm::Hs256],
            keys,
            issuer: None,
            audience: None,
            claims: ClaimNames::default(),
        });
        let jwt = AnyAuther::Jwt(jwt.unwrap().into());
        let [inside, outside] =
            ["127.0.0.1:7170", "192.0.2.1:7170"].map(|address| [address.parse().unwrap()]);
        let check = |auther, grpc, http, expected: &[&str]| {
            let warnings = exposure(auther, grpc, http);
            assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
            for (warning, expected) in warnings.iter().zip(expected) {
                assert!(warning.contains(expected), "{warning}");
            }
        };
        check(&open, &inside, &inside, &[]);
        check(&open, &outside, &inside, &["token.kind is \"open\"", "begin and end sessions"]);
        check(&jwt, &outside, &inside, &["begin and end sessions"]);
        check(&jwt, &inside, &outside, &["may push"]);
    }
}
