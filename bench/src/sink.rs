//! The destination of pushes: a server's push API, or the feed of a yardstick.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Result;
use crate::frames::PushFrames;
use crate::grpc::moving::MovingStream;
use crate::grpc::{Address, Answer, LedgerSums, Push, PushStream, Pusher};
use crate::plan::Plan;
use crate::stats::Reasons;
use crate::yardstick::Feed;

/// How long answers may take after the last call.
const ANSWERS: Duration = Duration::from_secs(120);

/// How often a call that was not sent is repeated.
const REPEATS_MAX: u32 = 20;

const NO_PANIC: &str = "a caller does not panic";

/// The destination of pushes.
pub(crate) enum Sink {
    /// To a server's push API; each stream has an address.
    Server { grpc: String, addresses: Vec<Address>, method: PushMethod },
    /// To a yardstick: to all its connections, or to one if each is a stream.
    Yardstick(Feed),
}

/// How pushes are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PushMethod {
    /// One call for each push. This many callers take turns at each stream, and each waits for the answer to its last
    /// call before it makes another: the pushes of one caller stay in order, but not those of different ones.
    Calls { callers: usize },
    /// One PushStream for all pushes, which keeps them in order.
    OneStream,
    /// One PushStream after the other: when a process of the server hands over, it ends its stream.
    MovingStream,
    /// Push frames over one connection, which keeps them in order.
    Frames(SocketAddr),
}

/// A [`Sink`] that is open, with the pushes under way.
pub(crate) struct OpenSink {
    way: Way,
    /// One for each stream; empty for a yardstick.
    addresses: Vec<Address>,
    answers: SharedAnswers,
}

enum Way {
    /// The callers of each stream take turns; the one at the front is next.
    Calls {
        pusher: Pusher,
        callers: Vec<Callers>,
    },
    OneStream(PushStream),
    Moving(MovingStream),
    Frames(PushFrames),
    Yardstick(Feed),
}

type Callers = VecDeque<Option<JoinHandle<()>>>;

/// The sums of the answers.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Answers {
    pub ledger: LedgerSums,
    /// Pushes that the server made.
    pub given: u64,
    pub refused: u64,
    /// The message of the first refusal.
    pub refusal: Option<String>,
}

/// The answers so far, and who is woken by them, since they tell what was dropped. Clones share them.
#[derive(Clone)]
struct SharedAnswers {
    sums: Arc<Mutex<Answers>>,
    received: watch::Sender<u64>,
}

impl OpenSink {
    /// Opens `sink`; answers also wake those that watch `received`. Fails if nobody listens at the push API.
    pub(crate) async fn open(sink: Sink, received: watch::Sender<u64>) -> Result<Self> {
        let answers = SharedAnswers { sums: Arc::default(), received };
        let (way, addresses) = match sink {
            Sink::Yardstick(feed) => (Way::Yardstick(feed), Vec::new()),
            Sink::Server { grpc, addresses, method: PushMethod::OneStream } => {
                let answers = answers.clone();
                let pushes = PushStream::open(&grpc, move |batch| answers.add(batch)).await?;
                (Way::OneStream(pushes), addresses)
            }
            Sink::Server { grpc, addresses, method: PushMethod::MovingStream } => {
                let answers = answers.clone();
                let pushes = MovingStream::open(grpc, move |batch| answers.add(batch));
                (Way::Moving(pushes), addresses)
            }
            Sink::Server { addresses, method: PushMethod::Frames(at), .. } => {
                let answers = answers.clone();
                let pushes = PushFrames::open(at, move |batch| answers.add(batch)).await?;
                (Way::Frames(pushes), addresses)
            }
            Sink::Server { grpc, addresses, method: PushMethod::Calls { callers } } => {
                let idle = || (0..callers).map(|_| None).collect();
                let callers = addresses.iter().map(|_| idle()).collect();
                (Way::Calls { pusher: Pusher::connect(&grpc).await?, callers }, addresses)
            }
        };
        Ok(Self { way, addresses, answers })
    }

    /// Whether the content of a push of `plan` is frames, not one body.
    pub(crate) fn takes_frames(&self, plan: &Plan) -> bool {
        matches!(self.way, Way::Yardstick(_)) || plan.batch > 1
    }

    /// Pushes `content`, which begins with message `sequence` of `stream`, after earlier pushes of the same caller.
    /// Fails if a yardstick has ended; a server's answers are only checked at the end.
    pub(crate) fn push(
        &mut self,
        plan: &Plan,
        (stream, sequence): (usize, u64),
        content: Vec<u8>,
    ) -> Result<()> {
        if let Way::Yardstick(feed) = &mut self.way {
            return Ok(feed.push((plan.members.len() > 1).then_some(stream), &content)?);
        }
        let to = self.addresses[stream].clone();
        let push = Push { to, operation: plan.operation, content, is_batch: plan.batch > 1 };
        match &mut self.way {
            Way::Yardstick(_) => {}
            Way::OneStream(pushes) => pushes.push(push),
            Way::Moving(pushes) => pushes.push(push),
            Way::Frames(pushes) => pushes.push(push),
            Way::Calls { pusher, callers } => {
                let mut pusher = pusher.clone();
                let (answers, course) = (self.answers.clone(), Arc::clone(&plan.course));
                let before = callers[stream].pop_front().expect("a stream has a caller");
                callers[stream].push_back(Some(tokio::spawn(async move {
                    if let Some(before) = before {
                        before.await.expect(NO_PANIC);
                    }
                    let mut answer = pusher.push(push.clone()).await;
                    for _ in 0..REPEATS_MAX {
                        if !answer.as_ref().is_err_and(is_unsent) {
                            break;
                        }
                        answer = pusher.push(push.clone()).await;
                    }
                    if answer.is_err() {
                        let stream = u32::try_from(stream).expect("fewer than connections");
                        course.note_failure(stream, sequence);
                    }
                    answers.add([answer]);
                })));
            }
        }
        Ok(())
    }

    /// The number that the server has counted as dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.answers.lock().ledger.dropped.total()
    }

    /// The number of answered pushes.
    pub(crate) fn answered(&self) -> u64 {
        let answers = self.answers.lock();
        answers.given + answers.refused
    }

    /// Waits for the answers to `pushes` pushes; returns them, and the feed of the yardstick, if it is one. Fails if an
    /// answer is late.
    pub(crate) async fn finish(self, pushes: u64) -> Result<(Answers, Option<Feed>)> {
        let calls: Vec<JoinHandle<()>> = match self.way {
            Way::Yardstick(feed) => return Ok((Answers::default(), Some(feed))),
            Way::Calls { callers, .. } => callers.into_iter().flatten().flatten().collect(),
            Way::OneStream(stream) => vec![stream.end()],
            Way::Moving(stream) => vec![stream.end()],
            Way::Frames(frames) => vec![frames.end()],
        };
        let all = async {
            for call in calls {
                call.await.expect(NO_PANIC);
            }
        };
        let in_time = tokio::time::timeout(ANSWERS, all).await;
        in_time.map_err(|_| format!("pushes are unanswered after {ANSWERS:?}"))?;
        let answers = self.answers.lock().clone();
        if answers.given + answers.refused != pushes {
            return Err(format!("{} of {pushes} pushes are answered", answers.given).into());
        }
        Ok((answers, None))
    }
}

/// Whether a call failed before it was sent, because its connection was about to close.
fn is_unsent(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::Cancelled && status.message().contains("operation was canceled")
}

impl SharedAnswers {
    fn add(&self, answers: impl IntoIterator<Item = Answer>) {
        let mut sums = self.lock();
        answers.into_iter().for_each(|answer| sums.add(answer));
        self.received.send_modify(|_| ());
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.sums.lock().expect(NO_PANIC)
    }
}

impl Answers {
    /// Whether the server counts deliveries: goim does not.
    pub(crate) fn has_ledger(&self) -> bool {
        self.ledger.replies > 0
    }

    /// Deliveries that the server counted as dropped. A ledger counts pushes, so a batch counts as one.
    pub(crate) fn dropped(&self, batch: u64) -> Reasons {
        let mut dropped = self.ledger.dropped.clone();
        dropped.values_mut().for_each(|count| *count *= batch);
        dropped
    }

    fn add(&mut self, answer: Answer) {
        match answer {
            Ok(ledger) => {
                self.given += 1;
                ledger.iter().for_each(|ledger| self.ledger.add(ledger));
            }
            Err(status) => {
                self.refused += 1;
                let words = || format!("{:?}: {}", status.code(), status.message());
                self.refusal.get_or_insert_with(words);
            }
        }
    }
}
