//! gRPC: services with health and reflection beside them.

use std::convert::Infallible;
use std::pin::pin;

use axum::Router;
use axum::response::IntoResponse;
use tokio::select;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::Request;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::{v1, v1alpha};

use crate::health::Health;
use crate::phase::stopped;

/// The services of a gRPC address.
#[derive(Default, Debug)]
pub struct GrpcApi {
    routes: Routes,
    names: Vec<&'static str>,
    streams: Vec<&'static str>,
    lists: Vec<&'static str>,
    reports: Vec<&'static str>,
}

/// Both versions of reflection. Some callers keep the stream open for later questions.
pub(crate) const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

impl GrpcApi {
    /// Declares that the caller of `path` sends a stream of messages, each at any time. For other calls the first
    /// message has to come in time. The service takes a [`Received`](crate::Received) for each from the
    /// [`Arrivals`](crate::Arrivals) of the request.
    #[must_use]
    pub fn stream(mut self, path: &'static str) -> Self {
        self.streams.push(path);
        self
    }

    /// Declares that the answer to `path` may be a long list. It is encoded on the blocking pool.
    #[must_use]
    pub fn list(mut self, path: &'static str) -> Self {
        self.lists.push(path);
        self
    }

    /// Declares that the request to `path`, and its answer, may be long lists. They are decoded, handled and encoded
    /// on the blocking pool once the whole request has arrived.
    #[must_use]
    pub fn report(mut self, path: &'static str) -> Self {
        self.reports.push(path);
        self
    }

    /// The calls that are handled on the blocking pool.
    pub(crate) fn reports(&self) -> &[&'static str] {
        &self.reports
    }

    /// The calls whose answers are encoded on the blocking pool.
    pub(crate) fn lists(&self) -> &[&'static str] {
        &self.lists
    }

    /// The calls whose caller sends a stream, beside [`REFLECTION`].
    pub(crate) fn streams(&self) -> &[&'static str] {
        &self.streams
    }

    /// Adds a service, whose name has a health status of its own.
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

    /// Adds health and both versions of reflection. `descriptors` is an encoded `FileDescriptorSet` with the services;
    /// others in it are not listed.
    ///
    /// # Panics
    /// If `descriptors` does not decode.
    pub(crate) fn routes(self, descriptors: &[u8]) -> (Router, Reported) {
        let Self { routes, names, .. } = self;
        let reflection = || {
            let mut reflection = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
                .with_service_name(v1::server_reflection_server::SERVICE_NAME)
                .with_service_name(v1alpha::server_reflection_server::SERVICE_NAME);
            for name in &names {
                reflection = reflection.with_service_name(*name);
            }
            reflection
        };
        let compiled = "the descriptors come from the compiler of this build";
        let reporter = HealthReporter::new();
        let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
        let routes = routes
            .add_service(tonic_health::pb::health_server::HealthServer::new(health))
            .add_service(reflection().build_v1().expect(compiled))
            // Older callers ask for this version alone: grpcurl before 1.8.8, Python's client.
            .add_service(reflection().build_v1alpha().expect(compiled))
            .prepare()
            .into_axum_router();
        (routes, Reported { reporter, names })
    }
}

/// The health of a server and its services, as reported to callers.
pub(crate) struct Reported {
    reporter: HealthReporter,
    names: Vec<&'static str>,
}

impl Reported {
    /// Keeps the health of the server (the empty name) and of its services in step with `health`, until the servers stop.
    pub(crate) async fn follow(self, mut health: Health) {
        let mut stopping = pin!(stopped(health.phase().clone()));
        loop {
            let status = match health.check() {
                Ok(()) => ServingStatus::Serving,
                Err(_) => ServingStatus::NotServing,
            };
            for name in [""].iter().chain(&self.names) {
                self.reporter.set_service_status(*name, status).await;
            }
            // The order matters: the last change is reported too.
            select! {
                biased;
                () = health.changed() => {}
                () = &mut stopping => return,
            }
        }
    }
}
