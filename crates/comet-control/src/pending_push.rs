//! Pushes that have begun, here and on other hosts.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use comet_core::Tally;
use comet_hub::cluster::{ClusterOutcome, NotStored, QuestionReply};
use comet_wire::goim::comet::Ledger;
use tokio::sync::oneshot;
use tonic::Status;

use crate::hub::Call;
use crate::status::{ledger, status};

/// A push on its way to the shards of this host. It is ready with its result here.
pub(crate) struct LocalPush {
    /// `None`: the push names no connection.
    call: Option<Call>,
    /// Keys or users that it names.
    given: u64,
    /// Absent users beside those that the shards report.
    absent: u64,
}

/// The result of a push on other hosts.
pub(crate) struct RemoteOutcome(oneshot::Receiver<ClusterOutcome>);

impl RemoteOutcome {
    pub(crate) fn new(outcome: oneshot::Receiver<ClusterOutcome>) -> Self {
        Self(outcome)
    }
}

impl Future for RemoteOutcome {
    type Output = Result<ClusterOutcome, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(outcome.map_err(|_| Status::internal("the cluster has lost a call")))
    }
}

/// A request of another host that has begun here. It is ready with its answer: the result for the connections, or the
/// answer to a question.
pub(crate) enum HostRequestCall {
    Push(LocalPush),
    Told(Telling),
    /// It reaches the shards before this is ready, but not at once.
    Paced(Telling),
}

pub(crate) type Telling =
    Pin<Box<dyn Future<Output = Result<(Tally, QuestionReply), Status>> + Send>>;

impl Future for HostRequestCall {
    type Output = Result<(Tally, QuestionReply), Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match &mut *self {
            Self::Push(push) => {
                ready!(Pin::new(push).poll(cx)).map(|tally| (tally, QuestionReply::default()))
            }
            Self::Told(telling) | Self::Paced(telling) => ready!(telling.as_mut().poll(cx)),
        })
    }
}

/// A push under way here and on other hosts. It is ready with its ledger.
pub(crate) struct PendingPush {
    here: LocalPush,
    elsewhere: Option<RemoteOutcome>,
    /// Its result here, while the other hosts have not answered.
    told: Option<Tally>,
}

impl PendingPush {
    fn new(here: LocalPush) -> Self {
        Self { here, elsewhere: None, told: None }
    }

    /// A push to users that no connection can have.
    pub(crate) fn absent(absent: u64) -> Self {
        Self::new(LocalPush { call: None, given: 0, absent })
    }

    /// It names `given` keys or users, and `absent` users that no connection can have.
    pub(crate) fn to_names(call: Call, given: u64, absent: u64) -> Self {
        Self::new(LocalPush { call: Some(call), given, absent })
    }

    /// The push is on its way to the stream, and begins here when it comes from there.
    pub(crate) fn stored(elsewhere: RemoteOutcome) -> Self {
        let here = LocalPush { call: None, given: 0, absent: 0 };
        Self { elsewhere: Some(elsewhere), ..Self::new(here) }
    }

    /// The push is on its way to other hosts as well.
    pub(crate) fn with(self, elsewhere: Option<RemoteOutcome>) -> Self {
        Self { elsewhere, ..self }
    }

    pub(crate) fn here(self) -> LocalPush {
        self.here
    }
}

impl From<Call> for PendingPush {
    fn from(call: Call) -> Self {
        Self::new(LocalPush { call: Some(call), given: 0, absent: 0 })
    }
}

impl Future for LocalPush {
    type Output = Result<Tally, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut tally = match &mut self.call {
            Some(call) => ready!(Pin::new(call).poll(cx)).map_err(status)?.tally,
            None => Tally::default(),
        };
        tally.absent += self.absent;
        Poll::Ready(Ok(tally))
    }
}

impl Future for PendingPush {
    type Output = Result<Ledger, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (tally, unanswered) = ready!(self.poll_sum(cx))?;
        Poll::Ready(Ok(Ledger { unanswered, ..ledger(&tally) }))
    }
}

impl PendingPush {
    /// The sum over all hosts, and those without an answer.
    pub(crate) async fn sum(mut self) -> Result<(Tally, Vec<String>), Status> {
        poll_fn(|cx| self.poll_sum(cx)).await
    }

    fn poll_sum(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Tally, Vec<String>), Status>> {
        if self.told.is_none() {
            let here = ready!(Pin::new(&mut self.here).poll(cx))?;
            self.told = Some(here);
        }
        let elsewhere = match &mut self.elsewhere {
            Some(elsewhere) => ready!(Pin::new(elsewhere).poll(cx))?,
            None => ClusterOutcome::default(),
        };
        if let Some(why) = elsewhere.not_stored {
            return Poll::Ready(Err(not_stored(why)));
        }
        let here = self.told.take().expect("it is ready, and polled no more after that");
        Poll::Ready(Ok(sum(here, elsewhere, self.here.given)))
    }
}

/// The status for the caller of a push that is not known to be in the stream.
fn not_stored(why: NotStored) -> Status {
    match why {
        NotStored::Refused(reason) => Status::unavailable(format!(
            "the room has a history, and its stream does not have the push, so nobody gets it: {reason}"
        )),
        NotStored::Unknown => Status::deadline_exceeded(
            "the room has a history, and its stream has not said whether it has the push",
        ),
    }
}

/// Adds the results of other hosts. A name that is absent here may be held elsewhere, and each host reports only how
/// many of the `given` names it does not hold. A user with sessions on several hosts counts several times.
fn sum(mut here: Tally, elsewhere: ClusterOutcome, given: u64) -> (Tally, Vec<String>) {
    let ClusterOutcome { tally: mut others, hosts, unanswered, counts: _, pages: _, not_stored: _ } =
        elsewhere;
    let held = (u64::from(hosts) * given).saturating_sub(others.absent);
    others.absent = 0;
    here += others;
    here.absent = here.absent.saturating_sub(held);
    (here, unanswered.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_absent_if_no_host_holds_it() {
        let mut here = Tally { absent: 2, ..Tally::default() };
        here.queue();
        // Of three keys one is held here, one there, and one by no host.
        let mut tally = Tally { absent: 2, ..Tally::default() };
        tally.queue();
        let unanswered = vec!["c".into()];
        let there = ClusterOutcome { tally, hosts: 1, unanswered, ..ClusterOutcome::default() };
        let (tally, unanswered) = sum(here, there, 3);
        assert_eq!((tally.matched, tally.absent), (2, 1));
        assert_eq!(unanswered, ["c"]);
    }
}
