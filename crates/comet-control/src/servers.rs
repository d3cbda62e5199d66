//! The tasks of the control thread: the servers at every address, around the hub.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use comet_core::Report;
use comet_mesh::Inbox;
use comet_push::CallLimits;
use comet_serve::{
    AccessControl, AccessLog, DEBUG_CONNECTIONS, GRPC_CONNECTIONS, GateLimits, Gates, GrpcApi,
    HTTP_CONNECTIONS, Health, Listener, Phase, STAT_CONNECTIONS, Servers, stopped,
};
use tokio::join;
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use crate::called::tell_caller;
use crate::cluster::{ClusterDriver, ClusterWork, HostRequest, STREAM_CALLER};
use crate::debug;
use crate::hub::HubDriver;
use crate::liveness::CoreLiveness;
use crate::logic::Logic;
use crate::memory_ceiling::MemoryCeiling;
use crate::monitor::Monitor;
use crate::node::NodeDriver;
use crate::pages;
use crate::pushes::Pushes;

/// How long announcing this host's leave to others may take.
const LEAVE: Duration = Duration::from_millis(500);
/// How long the process that takes over may need to connect to the other hosts. The engine has a limit of its own.
const WITHDRAW: Duration = Duration::from_secs(6);

/// Everything that the thread owns.
pub(crate) struct Assembly {
    pub(crate) grpc: Vec<Listener>,
    pub(crate) http: Vec<Listener>,
    pub(crate) stat: Vec<Listener>,
    pub(crate) debug: Vec<Listener>,
    pub(crate) bounds: CallLimits,
    pub(crate) gates: Arc<Gates>,
    pub(crate) push_access: Arc<AccessControl>,
    pub(crate) access_log: Arc<AccessLog>,
    pub(crate) monitor_access: Arc<AccessControl>,
    pub(crate) hub: Arc<HubDriver>,
    pub(crate) logic: Option<Arc<Logic>>,
    pub(crate) cluster: Option<Arc<ClusterDriver>>,
    pub(crate) cluster_work: Option<ClusterWork>,
    pub(crate) pushes: Arc<Pushes>,
    pub(crate) push: GrpcApi,
    pub(crate) node: Arc<NodeDriver>,
    pub(crate) calls: Router,
    pub(crate) liveness: Arc<CoreLiveness>,
    pub(crate) memory: Arc<MemoryCeiling>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) phase: watch::Receiver<Phase>,
}

impl Assembly {
    /// Starts serving; the future runs until [`Phase::Stopped`].
    ///
    /// # Errors
    /// If the runtime refuses a listener.
    pub(crate) fn start(self, reports: Inbox<Report>) -> io::Result<impl Future<Output = ()>> {
        let Self {
            bounds, gates, hub, logic, push, calls, liveness, memory, monitor, phase, ..
        } = self;
        let (cluster, cluster_work, pushes) = (self.cluster, self.cluster_work, self.pushes);
        let push_limits = |connections, request_max| GateLimits {
            connections,
            request_max,
            request_time: bounds.timeout,
        };
        let (trouble, troubles) = watch::channel(None);
        liveness.look(&trouble);
        let health = Health::new(phase.clone(), troubles);
        let mut servers = Servers::new(health.clone());
        let http_limits = push_limits(HTTP_CONNECTIONS, bounds.frame_max);
        let limits = push_limits(GRPC_CONNECTIONS, bounds.request_max());
        let gate = gates.logged_gate("push.grpc", limits, &self.push_access, &self.access_log);
        servers.grpc(&gate, self.grpc, push, comet_wire::DESCRIPTORS)?;
        let gate = gates.logged_gate("push.http", http_limits, &self.push_access, &self.access_log);
        servers.http(&gate, self.http, &calls)?;
        let gate = gates.pages("monitor.stat", STAT_CONNECTIONS, &self.monitor_access);
        let pages = pages::router(monitor, health);
        servers.http(&gate, self.stat, &pages)?;
        let gate = gates.pages("monitor.pprof", DEBUG_CONNECTIONS, &self.monitor_access);
        servers.http(&gate, self.debug, &debug::router(Arc::clone(&hub)))?;
        let reports = Arc::new(reports);
        let memory = memory.watch(Arc::clone(&hub));
        let carrying = Arc::clone(&hub).run(Arc::clone(&reports), {
            let (logic, cluster, hub) = (logic.clone(), cluster.clone(), Arc::clone(&hub));
            move |report| match (&logic, report) {
                (_, Report::RoomInterest { room, has_members }) => {
                    // Shards report this only if there is a cluster.
                    if let Some(cluster) = &cluster {
                        cluster.set_interest(&room, has_members);
                    }
                }
                (_, Report::Called { call, shard, target, push }) => {
                    if let Some(cluster) = &cluster {
                        let bytes = push.frame.message().len();
                        let told = cluster.begin_called(bounds.timeout, target, &push);
                        tokio::spawn(tell_caller(Arc::clone(&hub), (shard, call, bytes), told));
                    }
                }
                (_, Report::Claimed { key, at }) => {
                    if let Some(cluster) = &cluster {
                        cluster.claim((key, at));
                    }
                }
                (_, Report::KeySlice { shard, keys, next }) => {
                    if let Some(cluster) = &cluster {
                        cluster.take_keys(shard, (keys, next));
                    }
                }
                (Some(logic), report) => logic.take(report),
                (None, report) => {
                    // This is a bug in a shard, but not worth losing the clients of this host. The report may contain a
                    // token, which must not be logged.
                    debug_assert!(false, "there is no logic to ask: {report:?}");
                    log::error!("a core reports what only logic needs to know, and there is none");
                }
            }
        });
        Ok(async move {
            let mut carrier = JoinSet::new();
            carrier.spawn(carrying);
            carrier.spawn(liveness.watch(trouble));
            carrier.spawn(memory);
            carrier.spawn(self.node.run());
            let mut engine = JoinSet::new();
            if let Some(ClusterWork { events, stream, work }) = cluster_work
                && let Some(cluster) = &cluster
            {
                // Until the commit of an upgrade the former process is this host.
                let (is_successor, driver) =
                    (*phase.borrow() == Phase::Upgrading, Arc::clone(cluster));
                engine.spawn(async move {
                    if is_successor {
                        driver.committed().await;
                    }
                    work.await;
                });
                let stored = pushes.clone();
                let prepare = move |proto, accepts| stored.push_of_stream(proto, accepts);
                let run_stream = Arc::clone(cluster).run_stream(stream, prepare);
                carrier.spawn(STREAM_CALLER.run(run_stream));
                let begin = move |request| match request {
                    HostRequest::Push(publication) => pushes.begin_here(publication),
                    HostRequest::Order(order) => pushes.begin_order(order),
                };
                carrier.spawn(Arc::clone(cluster).run(events, begin));
            }
            let _tending = logic.as_ref().map(Logic::start);
            let logic_heard = async {
                let Some(logic) = &logic else { return };
                // The shards have ended, so their last reports are in the inbox.
                while reports.depth() > 0 {
                    yield_now().await;
                }
                logic.until_all_heard().await;
            };
            let ended = async {
                stopped(phase).await;
                join!(servers.finish(), logic_heard);
                if let Some(cluster) = &cluster {
                    let limit = if cluster.is_withdrawn() { WITHDRAW } else { LEAVE };
                    if !cluster.is_withdrawn() {
                        cluster.leave();
                    }
                    // A NATS server that takes nothing is not waited for.
                    let ended = timeout(limit, engine.join_next()).await;
                    if ended.is_err() && cluster.is_withdrawn() {
                        log::error!(
                            "upgrade: NATS does not take what other hosts have pushed meanwhile within {limit:?}: it is lost"
                        );
                    }
                }
            };
            tokio::select! {
                Some(ended) = carrier.join_next() => match ended.expect("neither panics") {},
                () = ended => {}
            }
        })
    }
}
