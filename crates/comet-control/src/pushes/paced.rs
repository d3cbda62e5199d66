//! Paced broadcasts: scheduled on all shards of a host or on none, and listed and cancelled.
//!
//! The called host asks the others for their number of connections, schedules its own part, and publishes the
//! broadcast. Each other host schedules its part at a share of the speed, under the same name.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comet_core::limits::PACED_MAX;
use comet_core::{CallId, Push, Tally};
use comet_hub::cluster::{ClusterOutcome, Order, Pace, Publication, Question, QuestionReply};
use comet_hub::{CallResult, PacedBroadcast, shares};
use comet_push::{Broadcast, PushResult};
use comet_wire::goim::comet::Ledger;
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use tonic::Status;

use crate::cluster::unix_ms;
use crate::counts::snapshots;
use crate::hub::{HubDriver, PacedCall};
use crate::pending_push::HostRequestCall;
use crate::status::{known, ledger, status};

use super::Pushes;

impl Pushes {
    /// Schedules a broadcast of `speed` connections a second, here and on the other hosts.
    pub(super) async fn begin_paced(
        &self,
        push: &Push,
        speed: NonZeroU32,
        publication: Option<Publication>,
    ) -> Result<PushResult, Status> {
        let (begin, limit) = (Instant::now(), self.bounds.timeout);
        check_room(&self.hub)?;
        // A host that does not answer is waited for once more, with the broadcast itself.
        let asked = self.cluster.as_ref().map(|cluster| {
            cluster.order(limit / 2, Order::Tell(Question::Counts { rooms: Vec::new() }))
        });
        let others = async {
            let Some(asked) = asked else { return Ok(0) };
            // The number of clients is the first count.
            Ok(asked.await?.counts.first().copied().unwrap_or(0))
        };
        let (live, others) = tokio::try_join!(live_by_shard(&self.hub, limit), others)?;
        let own: u64 = live.iter().sum();
        let connections = self.cluster.as_ref().map(|_| own.saturating_add(others));
        let pace = Pace { speed, connections, name: None };
        let name = |CallId(call)| {
            // The time makes the name unique: a restarted process uses the same ids again, and other hosts may not have
            // ended the former broadcast.
            let now = unix_ms(Instant::now());
            Some(format!("{}.{now}.{call}", self.cluster.as_ref()?.host()).into())
        };
        let speed = (pace.share(own), &*live);
        let (mut call, gathered) = schedule(&self.hub, limit, push, speed, name).await?;
        call.keep();
        let name = call.name().cloned();
        let Some((cluster, publication)) = self.cluster.as_ref().zip(publication) else {
            let scheduled = gathered.scheduled;
            return Ok(Ledger { scheduled, ..ledger(&gathered.tally) }.into());
        };
        let paced = Some(Box::new(Pace { name, ..pace }));
        let left = limit.saturating_sub(begin.elapsed()).max(limit / 2);
        let there = cluster.begin(left, Publication { paced, ..publication }).await?;
        let ClusterOutcome { tally: others, counts, unanswered, .. } = there;
        let mut tally = gathered.tally;
        // A host of an older release sends the push to all connections at once.
        tally += others;
        let scheduled = gathered.scheduled.saturating_add(counts.first().copied().unwrap_or(0));
        let unanswered = unanswered.iter().map(ToString::to_string).collect();
        Ok(Ledger { scheduled, unanswered, ..ledger(&tally) }.into())
    }

    /// Begins this host's part of a broadcast from another host, or from a program.
    pub(super) fn begin_part(&self, push: Push, pace: Pace) -> Result<HostRequestCall, Status> {
        // Checked first, to avoid asking the shards for their connections in vain.
        check_room(&self.hub)?;
        let (hub, limit) = (Arc::clone(&self.hub), self.bounds.timeout);
        Ok(HostRequestCall::Paced(Box::pin(async move {
            let refused = |status: Status| Status::aborted(status.message());
            let scheduled = schedule_part(&hub, limit, &push, pace).await.map_err(refused)?;
            Ok((Tally::default(), QuestionReply { counts: vec![scheduled], page: None }))
        })))
    }

    /// The broadcasts under way here, the oldest first.
    pub(super) fn paced_under_way(&self) -> Vec<Broadcast> {
        let paced = self.hub.paced().into_iter();
        let broadcast = |(CallId(id), since, paced): (CallId, Duration, PacedBroadcast)| {
            let PacedBroadcast { operation, speed, name, .. } = paced;
            Broadcast { id, operation, speed, since, name }
        };
        paced.map(broadcast).collect()
    }

    /// Ends a broadcast under way here, on all hosts. Returns its result so far.
    pub(super) async fn cancel_paced(&self, call: CallId) -> Result<Ledger, Status> {
        let limit = self.bounds.timeout;
        let name = self.hub.name_of_paced(call);
        let ended = match &name {
            Some(name) => self.hub.cancel_named(name),
            None => self.hub.cancel_paced(call).into_iter().collect(),
        };
        if ended.is_empty() {
            return Err(Status::not_found(format!("no paced broadcast {} is under way", call.0)));
        }
        let there = self.cluster.as_ref().zip(name);
        let there =
            there.map(|(cluster, name)| cluster.order(limit, Order::CancelBroadcast { name }));
        let mut tally = tally_of(ended, limit).await?;
        let mut unanswered = Vec::new();
        if let Some(there) = there {
            let there = there.await?;
            tally += there.tally;
            unanswered = there.unanswered.iter().map(ToString::to_string).collect();
        }
        Ok(Ledger { unanswered, ..ledger(&tally) })
    }

    /// Ends the broadcasts of this name here, as another host ordered.
    pub(super) fn cancel_here(&self, name: &Arc<str>) -> HostRequestCall {
        let (ended, limit) = (self.hub.cancel_named(name), self.bounds.timeout);
        HostRequestCall::Told(Box::pin(async move {
            Ok((tally_of(ended, limit).await?, QuestionReply::default()))
        }))
    }
}

/// The connections of each shard.
async fn live_by_shard(hub: &Arc<HubDriver>, limit: Duration) -> Result<Vec<u64>, Status> {
    let mut live = vec![0; usize::from(hub.shards())];
    for (shard, counters) in snapshots(hub, limit).await.map_err(status)? {
        live[usize::from(shard.0)] = counters.live;
    }
    Ok(live)
}

fn check_room(hub: &HubDriver) -> Result<(), Status> {
    match hub.has_room_for_paced() {
        true => Ok(()),
        false => Err(Status::resource_exhausted(format!(
            "{PACED_MAX} paced broadcasts are under way; try again when one has ended"
        ))),
    }
}

/// Schedules a broadcast on all shards, at a speed that is split by their connections. It is cancelled unless it is kept.
async fn schedule(
    hub: &Arc<HubDriver>,
    limit: Duration,
    push: &Push,
    (speed, live): (NonZeroU32, &[u64]),
    name: impl FnOnce(CallId) -> Option<Arc<str>>,
) -> Result<(PacedCall, CallResult), Status> {
    // Other broadcasts may have begun since the first check.
    check_room(hub)?;
    let begun = hub.begin_paced(limit, push, (speed, shares(speed, live)), name);
    let mut call = begun.map_err(status)?;
    let gathered = call.scheduled().await.map_err(status)?;
    if gathered.busy > 0 {
        return Err(Status::resource_exhausted(format!(
            "{} of {} shards refused it, so it is cancelled; {}",
            gathered.busy,
            hub.shards(),
            known(&gathered),
        )));
    }
    Ok((call, gathered))
}

/// Schedules the part of this host. Returns how many connections it is going to visit.
async fn schedule_part(
    hub: &Arc<HubDriver>,
    limit: Duration,
    push: &Push,
    pace: Pace,
) -> Result<u64, Status> {
    let live = live_by_shard(hub, limit).await?;
    if pace.name.as_ref().is_some_and(|name| hub.was_cancelled(name)) {
        return Err(Status::cancelled("it was cancelled on all hosts"));
    }
    let speed = pace.share(live.iter().sum());
    let name = pace.name;
    let (mut call, gathered) = schedule(hub, limit, push, (speed, &live), |_| name).await?;
    call.keep();
    Ok(gathered.scheduled)
}

/// The tally of cancelled broadcasts, once all shards have ended them.
async fn tally_of(
    ended: Vec<oneshot::Receiver<PacedBroadcast>>,
    limit: Duration,
) -> Result<Tally, Status> {
    let end = Instant::now() + limit;
    let mut tally = Tally::default();
    for ended in ended {
        match timeout_at(end.into(), ended).await {
            Ok(Ok(ended)) => tally += ended.tally,
            _ => {
                return Err(Status::deadline_exceeded(format!(
                    "not every shard has ended it within {limit:?}"
                )));
            }
        }
    }
    Ok(tally)
}
