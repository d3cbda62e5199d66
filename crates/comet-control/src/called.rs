//! Pushes of callers at push frames, for other hosts: a data core has begun them here.

use std::sync::Arc;
use std::time::Duration;

use comet_core::{CallId, CallerTarget, Message, Push, ShardId};
use comet_hub::cluster::{ClusterOutcome, Publication, Target};
use comet_proto::decode;

use crate::cluster::ClusterDriver;
use crate::hub::HubDriver;
use crate::under_way::Elsewhere;

/// What is known of other hosts is told so early before the end of the call's time: a part of it.
const TOLD_BEFORE: u32 = 8;

impl ClusterDriver {
    /// Publishes a push that was begun by a data core. Its caller is answered within `limit`.
    pub(crate) fn begin_called(
        &self,
        limit: Duration,
        target: CallerTarget,
        push: &Push,
    ) -> Elsewhere {
        let bytes = push.frame.message();
        let frame = decode(bytes, bytes.len()).ok().flatten();
        let (frame, _) = frame.expect("a shard made the frame of a request");
        let publication = Publication {
            target: match target {
                CallerTarget::Key(key) => Target::Keys([key].into()),
                CallerTarget::User(user) => Target::Users([user].into()),
                CallerTarget::Room(room) => Target::Room(room),
                CallerTarget::All => Target::All,
            },
            accepts: push.operation,
            operation: frame.operation,
            version: frame.version.into(),
            sequence: frame.sequence,
            collapse_id: Box::default(),
            body: frame.body.into(),
        };
        self.begin(limit - limit / TOLD_BEFORE, publication)
    }
}

/// Tells the shard of the caller what became of the push on other hosts. Without room for it the call ends by its time.
pub(crate) async fn tell_caller(
    hub: Arc<HubDriver>,
    (shard, call): (ShardId, CallId),
    outcome: Elsewhere,
) {
    let Ok(ClusterOutcome { mut tally, hosts, unanswered, .. }) = outcome.await else { return };
    // A call names one key or one user. Each host that does not hold it has counted it.
    let held = u64::from(hosts).saturating_sub(std::mem::take(&mut tally.absent));
    let (held, unanswered) = (u32::from(held > 0), unanswered.len() as u32);
    let tally = Box::new(tally);
    hub.tell(shard, Message::ToldElsewhere { call, tally, held, unanswered });
}
