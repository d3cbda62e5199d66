//! gRPC: services with health and reflection beside them, served over TCP.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::response::IntoResponse;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::Request;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::caller::identify;
use crate::listen::no_delay;
use crate::phase::{Phase, stopped};

/// Calls one gRPC connection may have under way; HTTP/2 makes the caller hold the next one back.
const STREAMS_MAX: u32 = 1_024;

/// How often a silent gRPC connection is pinged.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long a listener rests after a failed accept, so that a process out of file descriptors does
/// not spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The services of a gRPC address.
#[derive(Default, Debug)]
pub struct GrpcApi {
    routes: Routes,
    names: Vec<&'static str>,
}

impl GrpcApi {
    /// Adds a service; its name has a health of its own.
    #[must_use]
    pub fn service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.routes = self.routes.add_service(service);
        self.names.push(S::NAME);
        self
    }

    /// Adds health and reflection. `descriptors` is an encoded `FileDescriptorSet` with the services;
    /// others in it are not listed.
    ///
    /// # Panics
    /// If `descriptors` does not decode.
    pub(crate) fn routes(self, descriptors: &[u8]) -> (Routes, Health) {
        let Self { routes, names } = self;
        let mut reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
            .with_service_name(tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME);
        for name in &names {
            reflection = reflection.with_service_name(*name);
        }
        let reflection =
            reflection.build_v1().expect("the descriptors come from the compiler of this build");
        let reporter = HealthReporter::new();
        let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
        let routes = routes
            .add_service(tonic_health::pb::health_server::HealthServer::new(health))
            .add_service(reflection)
            .prepare();
        (routes, Health { reporter, names })
    }
}

/// The health of a server and its services.
pub(crate) struct Health {
    reporter: HealthReporter,
    names: Vec<&'static str>,
}

impl Health {
    /// Keeps the health of the server (the empty name) and of its services in step with the phase,
    /// until [`Phase::Stopped`].
    pub(crate) async fn follow(self, mut phase: watch::Receiver<Phase>) {
        loop {
            let now = *phase.borrow_and_update();
            let status = match now {
                Phase::Ready => ServingStatus::Serving,
                Phase::Starting | Phase::Draining | Phase::Stopped => ServingStatus::NotServing,
            };
            for name in [""].iter().chain(&self.names) {
                self.reporter.set_service_status(*name, status).await;
            }
            if now == Phase::Stopped || phase.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Serves `routes` until [`Phase::Stopped`] and the end of all calls.
pub(crate) async fn serve(routes: Routes, listener: TcpListener, phase: watch::Receiver<Phase>) {
    let routes = routes.into_axum_router().layer(axum::middleware::from_fn(identify));
    let served = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(routes.into())
        .serve_with_incoming_shutdown(incoming(listener), stopped(phase))
        .await;
    if let Err(error) = served {
        log::error!("a gRPC address stopped serving: {error}");
    }
}

fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
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
