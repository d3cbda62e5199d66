//! All servers of a thread, which end together.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::accept::{self, Served};
use crate::gate::Gate;
use crate::grpc::GrpcApi;
use crate::guarded::Protocol;
use crate::health::Health;
use crate::listen::Listener;

/// How long calls under way may take to end when the servers stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The servers of a thread. They run as tasks of its runtime until [`Phase::Stopped`](crate::Phase). Dropping this cuts
/// them off.
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

    /// Serves `api` at every listener behind `gate`, with health and with reflection over `descriptors`, an
    /// encoded `FileDescriptorSet`. Has to be called inside the runtime, as [`Servers::http`].
    ///
    /// # Errors
    /// If the runtime refuses a listener.
    ///
    /// # Panics
    /// If `descriptors` does not decode.
    pub fn grpc(
        &mut self,
        gate: &Arc<Gate>,
        listeners: Vec<Listener>,
        api: GrpcApi,
        descriptors: &[u8],
    ) -> io::Result<()> {
        let protocol = Protocol::Grpc {
            streams: api.streams().into(),
            lists: api.lists().into(),
            reports: api.reports().into(),
        };
        let (router, reported) = api.routes(descriptors);
        self.serve(gate, listeners, &router, &protocol)?;
        self.tasks.spawn(reported.follow(self.health.clone()));
        Ok(())
    }

    /// Serves `router` at every listener behind `gate`.
    ///
    /// # Errors
    /// If the runtime refuses a listener.
    pub fn http(
        &mut self,
        gate: &Arc<Gate>,
        listeners: Vec<Listener>,
        router: &Router,
    ) -> io::Result<()> {
        self.serve(gate, listeners, router, &Protocol::Http)
    }

    fn serve(
        &mut self,
        gate: &Arc<Gate>,
        listeners: Vec<Listener>,
        router: &Router,
        protocol: &Protocol,
    ) -> io::Result<()> {
        for listener in listeners {
            let served = Served {
                router: router.clone(),
                protocol: protocol.clone(),
                gate: Arc::clone(gate),
                phase: self.health.phase().clone(),
            };
            self.tasks.spawn(accept::serve(listener.accepting()?, served));
        }
        Ok(())
    }

    /// Waits until every call has ended, for at most a second. Call it at [`Phase::Stopped`](crate::Phase). Streams
    /// that are still open after that grace are cut off.
    pub async fn finish(self) {
        let _ = timeout(STOP_GRACE, self.tasks.join_all()).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio::time::Instant;

    use crate::access_control::AccessControl;
    use crate::gate::Gates;
    use crate::listen::listen;
    use crate::phase::{Phase, advance};
    use crate::tls::ApiTls;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn servers_without_calls_end_at_once() {
        let (phase, phases) = watch::channel(Phase::Ready);
        let bound = listen("test", &["127.0.0.1:0".parse().unwrap()], &ApiTls::default()).unwrap();
        let gates = Gates::new(65_536, 1 << 20);
        let access = Arc::new(AccessControl::new(Vec::new(), vec!["test".to_owned()]));
        let gate = gates.pages("test", 1, &access);
        let mut servers = Servers::new(phases);
        servers.grpc(&gate, bound.listeners, GrpcApi::default(), &[]).unwrap();
        advance(&phase, Phase::Stopped);
        let begin = Instant::now();
        servers.finish().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
