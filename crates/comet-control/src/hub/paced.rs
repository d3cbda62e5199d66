//! Paced broadcasts: the calls that schedule and cancel them, and the callers that wait for their ends.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use comet_core::{CallId, Message, Millis, Push, ShardId, Tally};
use comet_hub::{CallError, CallResult, PacedBroadcast};
use comet_mesh::Wake;
use tokio::sync::oneshot;

use super::{Call, HubDriver, State};

/// A paced broadcast on its way to the control of another process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacedMove {
    /// Its id.
    pub call: CallId,
    /// The operation that connections must accept.
    pub operation: i32,
    /// Connections a second, of all shards.
    pub speed: u32,
    /// How long it has been under way.
    pub age: Duration,
    /// What became of it on the shards where it has ended.
    pub tally: Tally,
}

impl State {
    /// A paced broadcast has ended on a shard.
    pub(super) fn end_paced(&mut self, call: CallId, shard: ShardId, tally: Tally) {
        let Some(ended) = self.paced.handle_ended(call, shard, tally) else { return };
        for waiting in self.cancelled.remove(&call).into_iter().flatten() {
            // Refused only when the caller left in this very moment.
            let _ = waiting.send(ended.clone());
        }
    }
}

impl HubDriver {
    /// Starts a paced broadcast of `speed` connections a second, split into `shares` by shard; `None` where as
    /// many are under way as a shard takes. Unless it is kept, it ends when the call does.
    pub(crate) fn begin_paced(
        self: &Arc<Self>,
        limit: Duration,
        push: &Push,
        speed: NonZeroU32,
        shares: Vec<NonZeroU32>,
    ) -> Option<Result<PacedCall, CallError>> {
        if !self.lock().paced.has_room() {
            return None;
        }
        let begun = self.begin(limit, |call| {
            (0..).map(ShardId).zip(shares).map(move |(shard, share)| {
                let speed = Some(share);
                (shard, Message::Broadcast { call, push: push.clone(), speed })
            })
        });
        Some(begun.map(|call| {
            let since = self.now();
            let what = (push.operation, speed.get());
            self.lock().paced.begin(call.id, what, since, self.shards);
            PacedCall { call, is_kept: false }
        }))
    }

    /// The paced broadcasts under way, the oldest first, and how long each has been.
    pub(crate) fn paced(&self) -> Vec<(CallId, Duration, PacedBroadcast)> {
        let now = self.now();
        let state = self.lock();
        let all = state.paced.all().map(|(call, broadcast)| {
            let since = Duration::from_millis(now.0.saturating_sub(broadcast.since.0));
            (call, since, broadcast.clone())
        });
        all.collect()
    }

    /// Goes on with a broadcast of another process that has not ended on these shards. It began before this process.
    pub(crate) fn take_over_paced(&self, moved: &PacedMove, shards: BTreeSet<ShardId>) {
        let PacedMove { call, operation, speed, age, tally } = *moved;
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let since = Millis(self.now().0.saturating_sub(age_ms));
        self.lock().paced.take_over(call, (operation, speed), since, (tally, shards));
    }

    /// Tells every shard to end a paced broadcast. The receiver gets what became of it; `None` if it is not
    /// under way.
    pub(crate) fn cancel_paced(&self, call: CallId) -> Option<oneshot::Receiver<PacedBroadcast>> {
        let mut state = self.lock();
        if !state.paced.is_under_way(call) {
            return None;
        }
        let (sender, ended) = oneshot::channel();
        let State { hub, inboxes, cancelled, .. } = &mut *state;
        let waiting = cancelled.entry(call).or_default();
        if waiting.is_empty() {
            hub.cancel_broadcast(inboxes, call);
            self.wake.wake();
        }
        waiting.push(sender);
        Some(ended)
    }
}

/// The call that schedules a paced broadcast. Dropped without being kept, it is cancelled: what one shard did
/// not take goes on nowhere.
pub(crate) struct PacedCall {
    call: Call,
    is_kept: bool,
}

impl PacedCall {
    /// Waits until every shard has scheduled it.
    pub(crate) async fn scheduled(&mut self) -> Result<CallResult, CallError> {
        (&mut self.call).await
    }

    /// It goes on when this is dropped.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for PacedCall {
    fn drop(&mut self) {
        if !self.is_kept {
            self.call.hub.cancel_paced(self.call.id);
        }
    }
}
