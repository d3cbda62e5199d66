//! Paced broadcasts: scheduled on all shards or on none, listed and cancelled.

use std::num::NonZeroU32;
use std::time::Duration;

use comet_core::limits::PACED_MAX;
use comet_core::{CallId, Push};
use comet_hub::{PacedBroadcast, shares};
use comet_push::{Broadcast, Pushed};
use comet_wire::goim::comet::Ledger;
use tokio::time::timeout;
use tonic::Status;

use crate::counts::snapshots;
use crate::status::{known, ledger, status};

use super::Pushes;

impl Pushes {
    /// Schedules a broadcast of `speed` connections a second.
    pub(super) async fn begin_paced(
        &self,
        push: &Push,
        speed: NonZeroU32,
    ) -> Result<Pushed, Status> {
        let mut live = vec![0; usize::from(self.hub.shards())];
        for (shard, counters) in snapshots(&self.hub, self.bounds.timeout).await.map_err(status)? {
            live[usize::from(shard.0)] = counters.live;
        }
        let shares = shares(speed, &live);
        let begun = self.hub.begin_paced(self.bounds.timeout, push, speed, shares);
        let Some(begun) = begun else {
            return Err(Status::resource_exhausted(format!(
                "{PACED_MAX} paced broadcasts are under way; try again when one has ended"
            )));
        };
        let mut call = begun.map_err(status)?;
        let gathered = call.scheduled().await.map_err(status)?;
        if gathered.busy > 0 {
            return Err(Status::resource_exhausted(format!(
                "{} of {} shards refused it, so it is cancelled; {}",
                gathered.busy,
                self.hub.shards(),
                known(&gathered),
            )));
        }
        call.keep();
        // A host paces a broadcast to its own connections alone.
        let unanswered = self.cluster.as_ref().map(|cluster| cluster.other_hosts());
        let unanswered = unanswered.unwrap_or_default();
        let scheduled = gathered.scheduled;
        Ok(Ledger { scheduled, unanswered, ..ledger(&gathered.tally) }.into())
    }

    /// Those under way, the oldest first.
    pub(super) fn paced_under_way(&self) -> Vec<Broadcast> {
        let paced = self.hub.paced().into_iter();
        let broadcast = |(CallId(id), since, paced): (CallId, Duration, PacedBroadcast)| {
            Broadcast { id, operation: paced.operation, speed: paced.speed, since }
        };
        paced.map(broadcast).collect()
    }

    /// Ends one. Returns what became of it until then.
    pub(super) async fn cancel_paced(&self, call: CallId) -> Result<Ledger, Status> {
        let Some(ended) = self.hub.cancel_paced(call) else {
            return Err(Status::not_found(format!("no paced broadcast {} is under way", call.0)));
        };
        match timeout(self.bounds.timeout, ended).await {
            Ok(Ok(ended)) => Ok(ledger(&ended.tally)),
            _ => Err(Status::deadline_exceeded(format!(
                "not every shard has ended it within {:?}",
                self.bounds.timeout
            ))),
        }
    }
}
