//! What runs on the control thread: the servers at every address, around the hub.

use std::future::Future;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use comet_core::Report;
use comet_mesh::Inbox;
use comet_wire::comet::v1::push_server::PushServer;
use comet_wire::goim::comet::comet_server::CometServer;
use tokio::join;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api::{self, Api};
use crate::debug;
use crate::grpc::PushService;
use crate::http;
use crate::hub::Hub;
use crate::logic::Logic;
use crate::monitor::Monitor;

/// Calls one gRPC connection may have under way; HTTP/2 makes the caller hold the next one back.
const STREAMS_MAX: u32 = 1_024;

/// How often a silent gRPC connection is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long a listener rests after a failed accept, so that a process out of file descriptors does
/// not spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How long calls under way may take to end when the servers stop.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(1);

/// Where the process is in its life; only ever moves on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    Starting,
    Ready,
    Draining,
    Stopped,
}

/// Everything the thread takes with it.
pub(crate) struct Servers {
    pub(crate) grpc: Vec<StdListener>,
    pub(crate) http: Vec<StdListener>,
    pub(crate) stat: Vec<StdListener>,
    pub(crate) debug: Vec<StdListener>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) logic: Option<Arc<Logic>>,
    pub(crate) push: PushService,
    /// Longest request, bytes.
    pub(crate) request_max: usize,
    pub(crate) api: Api,
    pub(crate) monitor: Monitor,
    pub(crate) phase: watch::Receiver<Phase>,
}

impl Servers {
    /// Starts serving; what is returned runs until [`Phase::Stopped`].
    ///
    /// # Errors
    /// If the runtime refuses a listener.
    pub(crate) fn start(self, reports: Inbox<Report>) -> io::Result<impl Future<Output = ()>> {
        let Self { grpc, http, stat, debug, hub, logic, push, request_max, api, monitor, phase } =
            self;
        let reporter = HealthReporter::new();
        let routes = grpc_routes(push, request_max, reporter.clone());
        let calls = api::router(api);
        let pages = http::router(Arc::new(monitor), phase.clone());
        let tools = debug::router(Arc::clone(&hub));
        let mut servers = JoinSet::new();
        for listener in grpc {
            let incoming = incoming(TcpListener::from_std(listener)?);
            servers.spawn(serve_grpc(routes.clone(), incoming, phase.clone()));
        }
        let http = http.into_iter().map(|listener| (listener, &calls));
        let stat = stat.into_iter().map(|listener| (listener, &pages));
        let debug = debug.into_iter().map(|listener| (listener, &tools));
        for (listener, router) in http.chain(stat).chain(debug) {
            let listener = TcpListener::from_std(listener)?;
            servers.spawn(serve_http(router.clone(), listener, phase.clone()));
        }
        let names = ["", CometServer::<PushService>::NAME, PushServer::<PushService>::NAME];
        servers.spawn(report_health(reporter, names, phase.clone()));
        let reports = Arc::new(reports);
        let carrying = hub.run(Arc::clone(&reports), {
            let logic = logic.clone();
            move |report| match (&logic, report) {
                (Some(logic), report) => logic.take(report),
                (None, report) => unreachable!("there is no logic to ask: {report:?}"),
            }
        });
        Ok(async move {
            let mut carrier = JoinSet::new();
            carrier.spawn(carrying);
            let _tending = logic.as_ref().map(Logic::start);
            let logic_heard = async {
                let Some(logic) = &logic else { return };
                // The shards have ended: what they had to say of their last clients is here.
                while reports.depth() > 0 {
                    yield_now().await;
                }
                logic.until_all_heard().await;
            };
            let ended = async {
                stopped(phase).await;
                // Who still holds a stream open after the grace is cut off with the runtime.
                let _ = join!(timeout(STOP_GRACE, servers.join_all()), logic_heard);
            };
            tokio::select! {
                Some(ended) = carrier.join_next() => match ended.expect("the hub does not panic") {},
                () = ended => {}
            }
        })
    }
}

/// Resolves when the servers are to end, which the handle's sudden end is, too.
pub(crate) async fn stopped(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Stopped).await;
}

fn grpc_routes(push: PushService, request_max: usize, reporter: HealthReporter) -> Routes {
    // Named one by one: the descriptors have what others serve, too.
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(comet_wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(CometServer::<PushService>::NAME)
        .with_service_name(PushServer::<PushService>::NAME)
        .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
        .with_service_name(tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME)
        .build_v1()
        .expect("the descriptors come from the compiler of this build");
    let health = tonic_health::server::HealthService::from_health_reporter(reporter);
    Routes::new(CometServer::new(push.clone()).max_decoding_message_size(request_max))
        .add_service(PushServer::new(push).max_decoding_message_size(request_max))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection)
        .prepare()
}

pub(crate) async fn serve_grpc(
    routes: Routes,
    incoming: impl Stream<Item = io::Result<TcpStream>>,
    phase: watch::Receiver<Phase>,
) {
    let served = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stopped(phase))
        .await;
    if let Err(error) = served {
        log::error!("a gRPC address stopped serving: {error}");
    }
}

pub(crate) async fn serve_http(
    router: Router,
    listener: TcpListener,
    phase: watch::Receiver<Phase>,
) {
    let incoming = listener.tap_io(no_delay);
    // axum's accept loop has no error to return; its signature leaves room for one.
    let _ = axum::serve(incoming, router).with_graceful_shutdown(stopped(phase)).await;
}

pub(crate) fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    TcpListenerStream::new(listener).then(async |mut accepted| {
        match &mut accepted {
            Ok(stream) => no_delay(stream),
            Err(error) => {
                log::warn!("a gRPC address could not accept: {error}");
                sleep(ACCEPT_REST).await;
            }
        }
        accepted
    })
}

/// A reply is one small segment; it is not to wait for the next.
fn no_delay(stream: &mut TcpStream) {
    // A socket that refuses has failed already, and the first read says so.
    let _ = stream.set_nodelay(true);
}

/// Keeps gRPC health, of the server (the empty name) and of its services, in step with the phase.
pub(crate) async fn report_health<const SERVICES: usize>(
    reporter: HealthReporter,
    names: [&'static str; SERVICES],
    mut phase: watch::Receiver<Phase>,
) {
    loop {
        let now = *phase.borrow_and_update();
        let status = match now {
            Phase::Ready => ServingStatus::Serving,
            Phase::Starting | Phase::Draining | Phase::Stopped => ServingStatus::NotServing,
        };
        for name in names {
            reporter.set_service_status(name, status).await;
        }
        if now == Phase::Stopped || phase.changed().await.is_err() {
            return;
        }
    }
}
