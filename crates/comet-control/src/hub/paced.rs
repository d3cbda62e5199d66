//! Paced broadcasts: the calls that schedule and cancel them, and the callers that wait for their ends.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use comet_core::{CallId, Message, Millis, Push, ShardId, Tally};
use comet_hub::{CallError, CallResult, PacedBroadcast, PacedWhat};
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
    /// Its name on all hosts.
    pub name: Option<Arc<str>>,
    /// How long it has been under way.
    pub age: Duration,
    /// The tally of the shards on which it has ended.
    pub tally: Tally,
}

impl State {
    /// Notes that a paced broadcast has ended on a shard.
    pub(super) fn end_paced(&mut self, call: CallId, shard: ShardId, tally: Tally) {
        let Some(ended) = self.paced.handle_ended(call, shard, tally) else { return };
        for waiting in self.cancelled.remove(&call).into_iter().flatten() {
            // Fails only if the caller left at this very moment.
            let _ = waiting.send(ended.clone());
        }
    }
}

impl HubDriver {
    /// Starts a paced broadcast of `speed` connections a second, split into `shares` by shard. There must be space for
    /// it. Unless it is kept, it ends with the call. `name` makes its name, if it has one.
    pub(crate) fn begin_paced(
        self: &Arc<Self>,
        limit: Duration,
        push: &Push,
        (speed, shares): (NonZeroU32, Vec<NonZeroU32>),
        name: impl FnOnce(CallId) -> Option<Arc<str>>,
    ) -> Result<PacedCall, CallError> {
        let call = self.begin(limit, |call| {
            (0..).map(ShardId).zip(shares).map(move |(shard, share)| {
                let speed = Some(share);
                (shard, Message::Broadcast { call, push: push.clone(), speed })
            })
        })?;
        let (since, name) = (self.now(), name(call.id));
        let what = (push.operation, speed.get(), name.clone());
        self.lock().paced.begin(call.id, what, since, self.shards);
        Ok(PacedCall { call, name, is_kept: false })
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

    /// Continues a broadcast of another process that has not ended on these shards. It began before this process.
    pub(crate) fn take_over_paced(&self, moved: &PacedMove, shards: BTreeSet<ShardId>) {
        let PacedMove { call, operation, speed, ref name, age, tally } = *moved;
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let since = Millis(self.now().0.saturating_sub(age_ms));
        let what: PacedWhat = (operation, speed, name.clone());
        self.lock().paced.take_over(call, what, since, (tally, shards));
    }

    /// Tells every shard to end a paced broadcast. The receiver gets its result; `None` if it is not under way.
    pub(crate) fn cancel_paced(&self, call: CallId) -> Option<oneshot::Receiver<PacedBroadcast>> {
        self.cancel_of(&mut self.lock(), call)
    }

    /// As [`HubDriver::cancel_paced`], for all broadcasts of this name. None of this name begins here for some time.
    pub(crate) fn cancel_named(&self, name: &Arc<str>) -> Vec<oneshot::Receiver<PacedBroadcast>> {
        let mut state = self.lock();
        let calls = state.paced.cancel_named(name).into_iter();
        calls.filter_map(|call| self.cancel_of(&mut state, call)).collect()
    }

    /// Whether all hosts were told to end the broadcasts of this name.
    pub(crate) fn was_cancelled(&self, name: &str) -> bool {
        self.lock().paced.was_cancelled(name)
    }

    /// Whether there is space for another paced broadcast.
    pub(crate) fn has_room_for_paced(&self) -> bool {
        self.lock().paced.has_room()
    }

    /// The name on all hosts of a paced broadcast under way.
    pub(crate) fn name_of_paced(&self, call: CallId) -> Option<Arc<str>> {
        self.lock().paced.name(call).cloned()
    }

    fn cancel_of(
        &self,
        state: &mut State,
        call: CallId,
    ) -> Option<oneshot::Receiver<PacedBroadcast>> {
        if !state.paced.is_under_way(call) {
            return None;
        }
        let (sender, ended) = oneshot::channel();
        let State { hub, inboxes, cancelled, .. } = state;
        let waiting = cancelled.entry(call).or_default();
        if waiting.is_empty() {
            hub.cancel_broadcast(inboxes, call);
            self.wake.wake();
        }
        waiting.push(sender);
        Some(ended)
    }
}

/// The call that schedules a paced broadcast. If dropped without being kept, the broadcast is cancelled: if one shard
/// did not take it, it continues on none.
pub(crate) struct PacedCall {
    call: Call,
    name: Option<Arc<str>>,
    is_kept: bool,
}

impl PacedCall {
    /// Waits until every shard has scheduled it.
    pub(crate) async fn scheduled(&mut self) -> Result<CallResult, CallError> {
        (&mut self.call).await
    }

    /// Its name on all hosts.
    pub(crate) fn name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    /// Lets the broadcast continue when this is dropped.
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
