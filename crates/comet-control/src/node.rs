//! The orders of operators to this server: the driver of [`comet_hub::Drain`], and clients that are moved off.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use comet_core::limits::BLOCKS_MAX;
use comet_core::{BlockedNetwork, BlocklistFull, Kick, Limits, Millis, Push};
use comet_hub::{Drain, DrainOrder, DrainStage, ShardOrder, portions};
use comet_push::NodeAdmin;
use comet_serve::{Phase, advance, begin_upgrade, leaving, undrain};
use comet_wire::comet::v1::{
    self, BlockReply, BlockReq, DrainReq, MoveOffReq, NodeStatus, TraceReq,
};
use serde_json::{Value, json};
use tokio::select;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::counts::snapshots;
use crate::drain::DrainPlan;
use crate::hub::HubDriver;
use crate::live_trace::{self, LiveTraceStream};
use crate::pushes::{Pushes, network_of};
use crate::status::status;

/// How often the remaining connections of a drain are counted.
const LOOK: Duration = Duration::from_secs(1);

/// Counts of a drain between two log lines about it.
const LOOKS_A_LINE: u32 = 10;

/// How long counting the shards for a drain may take. After that they are asked again.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

struct State {
    drain: Drain,
    /// The defaults for a drain by a call.
    plan: DrainPlan,
    /// Clients per second that the last [`NodeAdmin::move_off`] closes.
    move_off_per_second: u32,
    /// Called with `false` when this server has to leave discovery, and with `true` when it has to come back. Returns
    /// at once.
    listing: Option<Box<dyn Fn(bool) + Send + Sync>>,
}

/// Executes the orders of operators. Its lock is never held across an await.
pub(crate) struct NodeDriver {
    hub: Arc<HubDriver>,
    pushes: Arc<Pushes>,
    phase: watch::Sender<Phase>,
    /// How long an answer may take.
    timeout: Duration,
    state: Mutex<State>,
    news: Notify,
}

impl NodeDriver {
    pub(crate) fn new(
        hub: Arc<HubDriver>,
        pushes: Arc<Pushes>,
        phase: watch::Sender<Phase>,
        plan: DrainPlan,
        timeout: Duration,
    ) -> Self {
        let (drain, listing) = (Drain::default(), None);
        let state = State { drain, plan, move_off_per_second: 0, listing };
        Self { hub, pushes, phase, timeout, state: Mutex::new(state), news: Notify::new() }
    }

    pub(crate) fn set_plan(&self, plan: DrainPlan) {
        self.lock().plan = plan;
    }

    pub(crate) fn set_listing(&self, listing: Box<dyn Fn(bool) + Send + Sync>) {
        let mut state = self.lock();
        state.listing = Some(listing);
        if state.drain.stage() != DrainStage::Serving {
            state.list(false);
        }
    }

    /// Marks the end of the process, by a drain of its own. Returns how long it still accepts clients.
    pub(crate) fn end(&self, delay: Duration) -> Duration {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let mut state = self.lock();
        advance(&self.phase, Phase::Draining);
        Duration::from_millis(state.drain.end(self.hub.now(), delay_ms))
    }

    /// Notes that networks were blocked or unblocked.
    pub(crate) fn look_at_blocks(&self) {
        self.news.notify_one();
    }

    /// Whether an order to drain is in effect, or the process is ending.
    pub(crate) fn is_draining(&self) -> bool {
        self.lock().drain.stage() != DrainStage::Serving
    }

    /// Moves to [`Phase::Upgrading`], if the process serves. No order to drain or to move clients off is taken until
    /// that phase ends.
    pub(crate) fn begin_upgrade(&self) -> bool {
        // The lock decides: an order was taken before, or is refused.
        let state = self.lock();
        state.drain.stage() == DrainStage::Serving && begin_upgrade(&self.phase)
    }

    /// The drain for `/stat`, null where there is none.
    pub(crate) fn drain_stat(&self, connections: u64) -> Value {
        let state = self.lock();
        state.drain.order().map_or(Value::Null, |order| {
            json!({
                "phase": self.phase(&state.drain),
                "connections_left": connections,
                "per_second": order.per_second,
                "keeps_clients": order.keeps_clients,
            })
        })
    }

    /// Executes drains as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) -> Infallible {
        // An order with a rate waits until the connections are counted.
        let mut uncounted = None;
        let mut looks = 0_u32;
        loop {
            let (order, stage, due) = self.step();
            match order {
                Some(ShardOrder::Close(order)) => (uncounted, looks) = (Some(order), 0),
                Some(ShardOrder::Keep) => uncounted = None,
                None => {}
            }
            let next = match stage {
                DrainStage::Closing => {
                    if let Some(order) = uncounted
                        && self.close(order).await
                    {
                        uncounted = None;
                    }
                    looks += 1;
                    self.look(looks.is_multiple_of(LOOKS_A_LINE)).await;
                    Some(Instant::now() + LOOK)
                }
                _ => due.map(|at| Instant::now() + self.until(at)),
            };
            let next = next.into_iter().chain(self.forget_blocks()).min();
            select! {
                () = self.news.notified() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// The steps that are due, and when the next one is.
    fn step(&self) -> (Option<ShardOrder>, DrainStage, Option<Millis>) {
        let mut state = self.lock();
        let order = state.drain.handle_timeout(self.hub.now());
        match order {
            Some(ShardOrder::Keep) => self.keep_clients(),
            Some(ShardOrder::Close(_)) => {
                log::info!("drain: new clients are refused, and those there are closed");
                self.hub.configure(|limits| Limits { takes_clients: false, ..limits });
            }
            None => {}
        }
        (order, state.drain.stage(), state.drain.poll_timeout())
    }

    /// Ends refusing and closing clients.
    fn keep_clients(&self) {
        self.hub.move_off((0..self.hub.shards()).map(|_| Some(0)), Duration::ZERO, 0);
        self.hub.configure(|limits| Limits { takes_clients: true, ..limits });
    }

    /// Has all connections closed by `order`. `false`: the shards could not be counted.
    async fn close(&self, order: DrainOrder) -> bool {
        let connections = match order.per_second {
            0 => 0,
            _ => match snapshots(&self.hub, COUNT_TIMEOUT).await {
                Ok(shards) => shards.iter().map(|(_, counters)| counters.connections).sum(),
                Err(_) => return false,
            },
        };
        let state = self.lock();
        // The order may have changed while the shards answered; then there is news.
        if state.drain.stage() == DrainStage::Closing && state.drain.order() == Some(order) {
            let over = time_for(connections, order.per_second).unwrap_or(state.plan.over);
            let all = (0..self.hub.shards()).map(|_| None);
            self.hub.move_off(all, over, order.retry_after_ms);
        }
        true
    }

    /// Checks whether connections are left.
    async fn look(&self, is_logged: bool) {
        let Ok(shards) = snapshots(&self.hub, COUNT_TIMEOUT).await else { return };
        let connections = shards.iter().map(|(_, counters)| counters.connections).sum();
        let mut state = self.lock();
        if state.drain.handle_connections(connections) {
            log::info!("drain: no client is left; the process goes on");
        } else if is_logged && state.drain.stage() == DrainStage::Closing {
            log::info!("drain: {connections} connections are left");
        }
    }

    /// Removes the blocks that have expired. Returns when the next one expires. Shards need not know that a block has
    /// ended, but without any block they stop looking at addresses.
    fn forget_blocks(&self) -> Option<Instant> {
        let now = self.hub.now();
        if self.hub.limits().blocklist.next_end().is_some_and(|end| end <= now) {
            self.hub.configure(|limits| Limits { blocklist: limits.blocklist.left(now), ..limits });
        }
        let end = self.hub.limits().blocklist.next_end();
        end.map(|at| Instant::now() + self.until(at))
    }

    fn until(&self, at: Millis) -> Duration {
        Duration::from_millis(at.0.saturating_sub(self.hub.now().0))
    }

    /// The phase, as in `NodeStatus.phase`.
    fn phase(&self, drain: &Drain) -> &'static str {
        match drain.stage() {
            DrainStage::Ending => "ending",
            DrainStage::Serving if *self.phase.borrow() == Phase::Starting => "starting",
            DrainStage::Serving => "serving",
            DrainStage::Leaving => "leaving",
            DrainStage::Closing => "draining",
            DrainStage::Drained => "drained",
        }
    }

    /// Whether this process takes orders that concern its clients. Call it while holding the lock.
    fn check_phase(&self) -> Result<(), Status> {
        let why = match *self.phase.borrow() {
            Phase::Starting => "the process is starting",
            // The order would be lost together with this process.
            Phase::Upgrading => "another process takes over: give the order again",
            Phase::Ready | Phase::Draining | Phase::Stopped => return Ok(()),
        };
        Err(Status::failed_precondition(why))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics between lock and unlock")
    }
}

impl State {
    fn list(&self, is_listed: bool) {
        if let Some(listing) = &self.listing {
            listing(is_listed);
        }
    }
}

impl NodeAdmin for NodeDriver {
    type Trace = LiveTraceStream;

    async fn status(&self) -> Result<NodeStatus, Status> {
        let shards = snapshots(&self.hub, self.timeout).await.map_err(status)?;
        let connections = shards.iter().map(|(_, counters)| counters.connections).sum();
        let moving_off = shards.iter().map(|(_, counters)| counters.moving_off).sum();
        let state = self.lock();
        let order = state.drain.order();
        let delay_left = state.drain.poll_timeout().map_or(Duration::ZERO, |at| self.until(at));
        Ok(NodeStatus {
            phase: self.phase(&state.drain).to_owned(),
            connections,
            moving_off,
            per_second: match order {
                Some(order) => order.per_second,
                None if moving_off > 0 => state.move_off_per_second,
                None => 0,
            },
            delay_left_ms: u64::try_from(delay_left.as_millis()).unwrap_or(u64::MAX),
            keeps_clients: order.is_some_and(|order| order.keeps_clients),
        })
    }

    async fn drain(&self, order: DrainReq) -> Result<NodeStatus, Status> {
        {
            let mut state = self.lock();
            self.check_phase()?;
            let plan = state.plan;
            let order = DrainOrder {
                delay_ms: order.delay_ms.map_or_else(|| millis(plan.delay).into(), u64::from),
                per_second: order.per_second,
                retry_after_ms: order.retry_after_ms.unwrap_or_else(|| millis(plan.retry_after)),
                keeps_clients: order.keep_clients,
            };
            let was_serving = state.drain.order().is_none();
            if !state.drain.begin(self.hub.now(), order) {
                return Err(Status::failed_precondition("a signal ends the process"));
            }
            if was_serving {
                state.list(false);
                advance(&self.phase, Phase::Draining);
            }
            let DrainOrder { delay_ms, per_second, keeps_clients, .. } = order;
            let speed = match per_second {
                _ if keeps_clients => "clients are kept".to_owned(),
                0 => format!("clients are closed over {:?}", plan.over),
                _ => format!("{per_second} clients are closed a second"),
            };
            log::info!("drain by a call: delay {delay_ms} ms, {speed}");
        }
        self.news.notify_one();
        self.status().await
    }

    async fn undrain(&self) -> Result<NodeStatus, Status> {
        {
            let mut state = self.lock();
            if state.drain.undrain() {
                self.keep_clients();
                undrain(&self.phase);
                state.list(true);
                log::info!("the drain is taken back: clients are accepted");
            } else if state.drain.stage() == DrainStage::Ending {
                return Err(Status::failed_precondition("a signal ends the process"));
            }
        }
        self.news.notify_one();
        self.status().await
    }

    async fn move_off(&self, order: MoveOffReq) -> Result<NodeStatus, Status> {
        let MoveOffReq { count, per_second, retry_after_ms } = order;
        if count == 0 || per_second == 0 {
            let sentence = "count and per_second have to be at least 1";
            return Err(Status::invalid_argument(sentence));
        }
        let shards = snapshots(&self.hub, self.timeout).await.map_err(status)?;
        let live: Vec<u64> = shards.iter().map(|(_, counters)| counters.live).collect();
        let portions = portions(count, &live);
        let count = portions.iter().sum();
        let over = time_for(count, per_second).unwrap_or_default();
        {
            let mut state = self.lock();
            if state.drain.stage() != DrainStage::Serving {
                return Err(Status::failed_precondition("the server drains: that closes them all"));
            }
            self.check_phase()?;
            state.move_off_per_second = per_second;
            let retry_after_ms = retry_after_ms.unwrap_or_else(|| millis(state.plan.retry_after));
            self.hub.move_off(portions.into_iter().map(Some), over, retry_after_ms);
            log::info!("{count} clients are moved off by a call, {per_second} a second");
        }
        self.status().await
    }

    async fn cancel_move_off(&self) -> Result<NodeStatus, Status> {
        {
            let state = self.lock();
            if state.drain.stage() != DrainStage::Serving {
                return Err(Status::failed_precondition("the server drains: undrain it"));
            }
            self.hub.move_off((0..self.hub.shards()).map(|_| Some(0)), Duration::ZERO, 0);
        }
        self.status().await
    }

    async fn block(&self, order: BlockReq) -> Result<BlockReply, Status> {
        let network = network_of(&order.address)?;
        if order.seconds == 0 {
            return Err(Status::invalid_argument("seconds have to be at least 1"));
        }
        let now = self.hub.now();
        let block = BlockedNetwork { network, until: now.after(u64::from(order.seconds) * 1_000) };
        let blocklist = self.hub.limits().blocklist.with(now, block).map_err(|BlocklistFull| {
            Status::resource_exhausted(format!("{BLOCKS_MAX} networks are blocked: unblock some"))
        })?;
        self.hub.configure(|limits| Limits { blocklist, ..limits });
        self.news.notify_one();
        log::info!("{network} is blocked by a call for {} s", order.seconds);
        if !order.kick {
            return Ok(BlockReply { closed: 0 });
        }
        let kick = Push::kick(Kick { sentence: "".into(), retry_after_ms: None });
        let kicked = self.pushes.begin_to_network(network, &kick)?.await?;
        Ok(BlockReply { closed: kicked.queued })
    }

    fn unblock(&self, address: &str) -> Result<(), Status> {
        let network = network_of(address)?;
        let (blocklist, was_there) = self.hub.limits().blocklist.without(self.hub.now(), network);
        if !was_there {
            return Err(Status::not_found(format!("{network} is not blocked")));
        }
        self.hub.configure(|limits| Limits { blocklist, ..limits });
        log::info!("{network} is not blocked any more, by a call");
        Ok(())
    }

    fn blocks(&self) -> Vec<v1::Block> {
        let (limits, now) = (self.hub.limits(), self.hub.now());
        let left = limits.blocklist.left(now);
        let listed = left.iter().map(|block| v1::Block {
            address: block.network.to_string(),
            seconds_left: (block.until.0 - now.0).div_ceil(1_000),
        });
        listed.collect()
    }

    fn trace(&self, order: TraceReq) -> Result<LiveTraceStream, Status> {
        live_trace::begin(&self.hub, order, leaving(self.phase.subscribe()))
    }
}

/// How long closing `connections` takes; `None`: there is no rate.
fn time_for(connections: u64, per_second: u32) -> Option<Duration> {
    let millis = connections.saturating_mul(1_000).checked_div(per_second.into())?;
    Some(Duration::from_millis(millis))
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use comet_mesh::inbox;
    use comet_push::CallLimits;
    use comet_serve::end_upgrade;

    use super::*;
    use crate::inspector::Inspector;
    use crate::memory_ceiling::MemoryCeiling;
    use crate::questions::Questions;
    use crate::wake::ControlWake;

    /// The driver of a process that serves, with a shard that never answers.
    fn driver() -> NodeDriver {
        let wake = Arc::new(ControlWake::default());
        let (shard, _) = inbox(8, Arc::clone(&wake) as _);
        let limits = Arc::new(Limits::default());
        let hub = HubDriver::new(vec![shard], wake, limits, std::time::Instant::now(), None);
        let hub = Arc::new(hub);
        let timeout = Duration::from_millis(1);
        let bounds = CallLimits { frame_max: 1, keys_max: 1, timeout };
        let inspector = Arc::new(Inspector::new(Arc::clone(&hub)));
        let questions = Arc::new(Questions::new(Arc::clone(&hub), inspector, bounds, None));
        let memory = Arc::new(MemoryCeiling::new(u64::MAX));
        let pushes = Pushes::new(Arc::clone(&hub), memory, questions, bounds, None);
        let (phase, _) = watch::channel(Phase::Ready);
        let plan =
            DrainPlan { delay: timeout, limit: timeout, over: timeout, retry_after: timeout };
        NodeDriver::new(hub, Arc::new(pushes), phase, plan, timeout)
    }

    #[tokio::test]
    async fn a_process_that_hands_over_takes_no_order_to_drain() {
        let node = driver();
        assert!(node.begin_upgrade());
        let refused = node.drain(DrainReq::default()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert_eq!((node.is_draining(), *node.phase.borrow()), (false, Phase::Upgrading));
        // The process continues. Orders then take effect, though the shard does not answer.
        end_upgrade(&node.phase);
        node.drain(DrainReq::default()).await.unwrap_err();
        assert_eq!((node.is_draining(), *node.phase.borrow()), (true, Phase::Draining));
        assert!(!node.begin_upgrade());
    }
}
