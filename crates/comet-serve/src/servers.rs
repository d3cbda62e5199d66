//! All servers of a thread, which end together.

use std::io;
use std::net::TcpListener as StdListener;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::grpc::{self, GrpcApi};
use crate::health::Health;
use crate::http;

/// How long calls under way may take to end when the servers stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The servers of a thread. They run as tasks of its runtime until [`Phase::Stopped`](crate::Phase); dropped, they are
/// cut off.
#[derive(Debug)]
pub struct Servers {
    tasks: JoinSet<()>,
    health: Health,
}

impl Servers {
    /// No server yet. `health` has the phase that all of them follow.
    #[must_use]
    pub fn new(health: impl Into<Health>) -> Self {
        Self { tasks: JoinSet::new(), health: health.into() }
    }

    /// Serves `api` at every listener, with health and with reflection over `descriptors`, an encoded
    /// `FileDescriptorSet`. Has to be called inside the runtime, as [`Servers::http`].
    ///
    /// # Errors
    /// If the runtime refuses a listener.
    ///
    /// # Panics
    /// If `descriptors` does not decode.
    pub fn grpc(
        &mut self,
        listeners: Vec<StdListener>,
        api: GrpcApi,
        descriptors: &[u8],
    ) -> io::Result<()> {
        let (routes, reported) = api.routes(descriptors);
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            self.tasks.spawn(grpc::serve(routes.clone(), listener, self.health.phase().clone()));
        }
        self.tasks.spawn(reported.follow(self.health.clone()));
        Ok(())
    }

    /// Serves `router` at every listener.
    ///
    /// # Errors
    /// If the runtime refuses a listener.
    pub fn http(&mut self, listeners: Vec<StdListener>, router: &Router) -> io::Result<()> {
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            self.tasks.spawn(http::serve(router.clone(), listener, self.health.phase().clone()));
        }
        Ok(())
    }

    /// Waits until every call has ended, at most a second. To be called at [`Phase::Stopped`](crate::Phase). Streams
    /// that are still open after that grace are cut off.
    pub async fn finish(self) {
        let _ = timeout(STOP_GRACE, self.tasks.join_all()).await;
    }
}
