//! Pushes that callers made by push frames and that a data core has begun here, passed on to other hosts.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use comet_core::{CallId, CallerTarget, Message, OtherHostsTally, Push, ShardId};
use comet_hub::cluster::{ClusterOutcome, Publication, Target, UNKNOWN_HOSTS};
use comet_proto::decode;

use crate::cluster::ClusterDriver;
use crate::hub::HubDriver;
use crate::pending_push::RemoteOutcome;

/// Other hosts get seven eighths of the time of a call, so that the core, which answers at the end of that time, learns
/// their results before. A late control thread needs more time, so their time is shorter by at least [`TELLING`], or by
/// half if the whole time is less than twice that.
const TELLING: Duration = Duration::from_millis(50);

/// How long other hosts may take for a push whose caller is answered within `limit`.
fn limit_of_hosts(limit: Duration) -> Duration {
    limit - (limit / 8).max(TELLING).min(limit / 2)
}

impl ClusterDriver {
    /// Publishes a push that was begun by a data core. Its caller is answered within `limit`.
    pub(crate) fn begin_called(
        &self,
        limit: Duration,
        target: CallerTarget,
        push: &Push,
    ) -> RemoteOutcome {
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
            paced: None,
        };
        self.begin(limit_of_hosts(limit), publication)
    }
}

/// Reports the result of the push on other hosts to the shard of the caller.
pub(crate) async fn tell_caller(
    hub: Arc<HubDriver>,
    (shard, call, bytes): (ShardId, CallId, usize),
    outcome: RemoteOutcome,
) {
    let unknown =
        || ClusterOutcome { unanswered: vec![UNKNOWN_HOSTS.into()], ..ClusterOutcome::default() };
    let outcome = outcome.await.unwrap_or_else(|_| unknown());
    // Pushes by frames do not go into the stream of histories.
    let ClusterOutcome { mut tally, hosts, unanswered, not_stored: _, counts: _, pages: _ } =
        outcome;
    // A call names one key or one user. Each host that does not hold it has counted it as absent.
    let held = u64::from(hosts).saturating_sub(mem::take(&mut tally.absent));
    let (held, unanswered) = (u32::from(held > 0), unanswered.len() as u32);
    let tally = Box::new(OtherHostsTally { tally, held, unanswered, bytes });
    hub.answer(shard, Message::OtherHostsTallied { call, tally });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_answers_of_other_hosts_is_shorter_than_that_of_the_call() {
        for (limit, of_hosts) in [(8_000, 7_000), (400, 350), (200, 150), (100, 50), (20, 10)] {
            let of_hosts = Duration::from_millis(of_hosts);
            assert_eq!(limit_of_hosts(Duration::from_millis(limit)), of_hosts, "{limit} ms");
        }
    }
}
