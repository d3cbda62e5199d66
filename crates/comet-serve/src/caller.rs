//! Who makes a call: the connection it came by.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::Response;
use tonic::transport::server::TcpConnectInfo;

tokio::task_local! {
    static CALLER: Caller;
}

/// One connection of a caller, as a number. Calls of one caller keep their order; callers take turns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Caller(pub u64);

impl Caller {
    /// The caller of the request that is being handled. Outside of requests all are one.
    #[must_use]
    pub fn current() -> Self {
        CALLER.try_with(|caller| *caller).unwrap_or_default()
    }

    /// Makes this one the current one while `work` runs.
    pub fn enter<T>(self, work: impl FnOnce() -> T) -> T {
        CALLER.sync_scope(self, work)
    }

    /// Makes this one the current one while the future is polled.
    pub fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CALLER.scope(self, future)
    }
}

/// Runs each request with its caller.
pub(crate) async fn identify(request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    let http = extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let grpc = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    let mut hasher = DefaultHasher::new();
    http.or(grpc).hash(&mut hasher);
    Caller(hasher.finish()).run(next.run(request)).await
}
