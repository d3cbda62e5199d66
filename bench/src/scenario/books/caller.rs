//! Callers that push, each with one call after the other, and record what they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::client::{END, HISTORY, Member, OPERATION, PLAIN, body};
use super::record::{Answer, Call, Kind, Outcome};
use crate::Result;
use crate::clock::now_ns;
use crate::grpc::{Address, Ledger, Push, Pusher};

/// The most keys in a push.
const KEYS_MAX: usize = 4;
/// The server answers each call within `push.timeout`. A call that is unanswered for longer than this is a fault.
const PATIENCE: Duration = Duration::from_secs(120);

/// The pushes, and their callers.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub pushes: usize,
    pub seed: u64,
    /// The time over which the pushes are spread.
    pub length_ns: u64,
    pub callers: usize,
    pub size: usize,
    pub members: Vec<Member>,
    /// The push APIs that are called, with the numbers of their hosts.
    pub hosts: Vec<(usize, String)>,
}

/// The number of pushes that were begun.
pub(super) type Progress = Arc<AtomicUsize>;

impl Plan {
    /// The kind and the clients of each push.
    fn targets(&self) -> Vec<(Kind, Vec<usize>)> {
        let mut random = StdRng::seed_from_u64(self.seed);
        let all: Vec<usize> = (0..self.members.len()).collect();
        let mut target = || match Kind::ALL[random.random_range(0..Kind::ALL.len())] {
            Kind::Keys => {
                let count = random.random_range(1..=KEYS_MAX);
                (Kind::Keys, all.iter().copied().sample(&mut random, count))
            }
            kind => (kind, all.clone()),
        };
        (0..self.pushes).map(|_| target()).collect()
    }

    /// Starts the callers; the thread ends with the last answer.
    pub(super) fn start(self, progress: Progress) -> JoinHandle<Result<Vec<Call>>> {
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(self.run(progress))
        })
    }

    async fn run(self, progress: Progress) -> Result<Vec<Call>> {
        let targets = Arc::new(self.targets());
        let plan = Arc::new(self);
        let mut pushers = Vec::new();
        for (_, address) in &plan.hosts {
            pushers.push(Pusher::connect(address).await?);
        }
        let pace = Arc::new(Pace::new(plan.length_ns / plan.pushes as u64));
        let mut callers = JoinSet::new();
        for publisher in 0..plan.callers {
            let at = publisher % plan.hosts.len();
            let (plan, targets, progress) = (plan.clone(), targets.clone(), progress.clone());
            let (mut pusher, pace) = (pushers[at].clone(), Arc::clone(&pace));
            callers.spawn(async move {
                let mut calls = Vec::new();
                loop {
                    let number = progress.fetch_add(1, SeqCst);
                    let Some((kind, clients)) = targets.get(number) else { break };
                    sleep(Duration::from_nanos(pace.wait_ns(now_ns()))).await;
                    let push = plan.push(*kind, clients, number as u64);
                    let begin_ns = now_ns();
                    let outcome = outcome(&mut pusher, push).await;
                    let end_ns = now_ns();
                    let (host, kind, clients) = (plan.hosts[at].0, *kind, clients.clone());
                    let call = Call { publisher, host, kind, clients, begin_ns, end_ns, outcome };
                    calls.push((number, call));
                }
                calls
            });
        }
        let mut calls: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
        calls.sort_unstable_by_key(|(number, _)| *number);
        Ok(calls.into_iter().map(|(_, call)| call).collect())
    }

    fn push(&self, kind: Kind, clients: &[usize], number: u64) -> Push {
        let to = match kind {
            Kind::Plain => Address::Room(PLAIN.to_owned()),
            Kind::History => Address::Room(HISTORY.to_owned()),
            Kind::Keys => {
                Address::Keys(clients.iter().map(|client| self.members[*client].key()).collect())
            }
        };
        Push::new(to, OPERATION, body(number, self.size))
    }

    /// Waits until the called hosts know all others: shortly after a connection, some others may not have announced
    /// themselves yet.
    pub(super) fn until_known(&self, patience_ns: u64) -> Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let deadline_ns = now_ns() + patience_ns;
            for (_, address) in &self.hosts {
                let mut pusher = Pusher::connect(address).await?;
                loop {
                    let to = Address::Keys(vec!["nobody".to_owned()]);
                    let answer = pusher.push(Push::new(to, OPERATION, Vec::new())).await?;
                    if answer.is_some_and(|ledger| ledger.unanswered.is_empty()) {
                        break;
                    }
                    if now_ns() > deadline_ns {
                        return Err("a host does not hear from others".into());
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
            Ok(())
        })
    }

    /// Makes pushes of each kind that mark the end of the run, until `is_over` is true or the time is up.
    pub(super) fn end(&self, is_over: impl Fn() -> bool, patience_ns: u64) -> Result<bool> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut pusher = Pusher::connect(&self.hosts[0].1).await?;
            let deadline_ns = now_ns() + patience_ns;
            let all: Vec<usize> = (0..self.members.len()).collect();
            while !is_over() {
                if now_ns() > deadline_ns {
                    return Ok(false);
                }
                for kind in Kind::ALL {
                    // If it does not arrive, it is tried again.
                    let _ = pusher.push(self.push(kind, &all, END)).await;
                }
                sleep(Duration::from_millis(100)).await;
            }
            Ok(true)
        })
    }
}

/// Spreads pushes over the time. Delays are not made up for: a burst during the next fault would hide everything else.
struct Pace {
    interval_ns: u64,
    /// When the next push is due.
    next_ns: AtomicU64,
}

impl Pace {
    fn new(interval_ns: u64) -> Self {
        Self { interval_ns, next_ns: AtomicU64::new(0) }
    }

    /// How long the next push must wait.
    fn wait_ns(&self, now_ns: u64) -> u64 {
        let following = |due_ns: u64| Some(due_ns.max(now_ns) + self.interval_ns);
        let due_ns = self.next_ns.fetch_update(SeqCst, SeqCst, following);
        due_ns.map_or(0, |due_ns| due_ns.saturating_sub(now_ns))
    }
}

async fn outcome(pusher: &mut Pusher, push: Push) -> Outcome {
    match timeout(PATIENCE, pusher.push(push)).await {
        Err(_) => Outcome::Silent,
        Ok(Ok(ledger)) => Outcome::Answered(ledger.unwrap_or_default().into()),
        Ok(Err(status)) => refusal(&status),
    }
}

/// Distinguishes a status that says that nobody gets the push from other errors.
fn refusal(status: &Status) -> Outcome {
    let text = format!("{:?}: {}", status.code(), status.message());
    let is_refused = status.code() == Code::Unavailable && text.contains("nobody gets it");
    if is_refused { Outcome::Refused(text) } else { Outcome::Failed(text) }
}

impl From<Ledger> for Answer {
    fn from(ledger: Ledger) -> Self {
        let Ledger { queued, dropped, unanswered, .. } = ledger;
        Self { queued, dropped: dropped.into_iter().collect(), unanswered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_pushes_are_not_caught_up_with() {
        let pace = Pace::new(10);
        assert_eq!([100, 100, 105].map(|now_ns| pace.wait_ns(now_ns)), [0, 10, 15]);
        assert_eq!([500, 500].map(|now_ns| pace.wait_ns(now_ns)), [0, 10]);
    }

    #[test]
    fn errors_show_whether_a_push_was_surely_not_made() {
        let unavailable = |text: &str| refusal(&Status::unavailable(text));
        assert!(matches!(unavailable("no stream, so nobody gets it: why"), Outcome::Refused(_)));
        assert!(matches!(unavailable("the server is going down"), Outcome::Failed(_)));
        let late = refusal(&Status::deadline_exceeded("nobody gets it"));
        assert!(matches!(late, Outcome::Failed(_)));
    }
}
