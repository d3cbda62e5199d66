//! Where pushes go: calls of a server's push API, or the feed of a yardstick.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::Result;
use crate::grpc::{Address, Ledger, LedgerSums, Push, PushStream, Pusher, StreamAnswers};
use crate::plan::{Plan, Received};
use crate::yardstick::Feed;

/// How long answers may take after the last call.
const ANSWERS: Duration = Duration::from_secs(30);

const NO_PANIC: &str = "a caller does not panic";

/// Where pushes are to go.
pub(crate) enum Sink {
    /// To a server's push API; each stream has an address.
    Server { grpc: String, addresses: Vec<Address>, method: PushMethod },
    /// To a yardstick: to all its connections, or to one where each is a stream.
    Yardstick(Feed),
}

/// How pushes are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PushMethod {
    /// By a call each. So many callers take turns at each stream, and each waits for the answer to its last
    /// call before it makes another: what it pushes stays in order, beside what the others push.
    Calls { callers: usize },
    /// Through one PushStream, which keeps all in order.
    OneStream,
}

/// A [`Sink`] that is open, with the pushes under way.
pub(crate) struct OpenSink {
    way: Way,
    operation: i32,
    /// Messages in one push.
    batch: u64,
    answers: SharedAnswers,
    received: Arc<Received>,
}

enum Way {
    /// The callers of each stream take turns; the one in front is next.
    Calls {
        pusher: Pusher,
        addresses: Vec<Address>,
        callers: Vec<Callers>,
    },
    OneStream {
        pushes: PushStream,
        addresses: Vec<Address>,
        reader: JoinHandle<()>,
    },
    Yardstick {
        feed: Feed,
        has_streams: bool,
    },
}

type Callers = VecDeque<Option<JoinHandle<()>>>;

/// What was answered.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Answers {
    pub ledger: LedgerSums,
    /// Pushes the server made.
    pub given: u64,
    pub refused: u64,
    /// The first refusal's words.
    pub refusal: Option<String>,
}

type SharedAnswers = Arc<Mutex<Answers>>;

impl OpenSink {
    /// Opens `sink` for `plan`. Fails if nobody listens at the push API.
    pub(crate) async fn open(sink: Sink, plan: &Plan, received: &Arc<Received>) -> Result<Self> {
        let (answers, received) = (SharedAnswers::default(), Arc::clone(received));
        let way = match sink {
            Sink::Yardstick(feed) => Way::Yardstick { feed, has_streams: plan.members.len() > 1 },
            Sink::Server { grpc, addresses, method: PushMethod::OneStream } => {
                let (pushes, replies) = PushStream::open(&grpc).await?;
                let reading = read(replies, Arc::clone(&answers), Arc::clone(&received));
                Way::OneStream { pushes, addresses, reader: tokio::spawn(reading) }
            }
            Sink::Server { grpc, addresses, method: PushMethod::Calls { callers } } => {
                let idle = || (0..callers).map(|_| None).collect();
                let callers = addresses.iter().map(|_| idle()).collect();
                Way::Calls { pusher: Pusher::connect(&grpc).await?, addresses, callers }
            }
        };
        Ok(Self { way, operation: plan.operation, batch: plan.batch, answers, received })
    }

    /// The content of a push is frames, not one body.
    pub(crate) fn takes_frames(&self) -> bool {
        matches!(self.way, Way::Yardstick { .. }) || self.batch > 1
    }

    /// Pushes `content` to `stream`, after what the same caller pushed to it before. Fails if a yardstick has
    /// ended; what a server answers is looked at in the end.
    pub(crate) fn push(&mut self, stream: usize, content: Vec<u8>) -> Result<()> {
        let (operation, is_batch) = (self.operation, self.batch > 1);
        let push = |to: &Address, content| Push { to: to.clone(), operation, content, is_batch };
        match &mut self.way {
            Way::Yardstick { feed, has_streams } => {
                feed.push(has_streams.then_some(stream), &content)?;
            }
            Way::OneStream { pushes, addresses, .. } => {
                pushes.push(push(&addresses[stream], content));
            }
            Way::Calls { pusher, addresses, callers } => {
                let (push, mut pusher) = (push(&addresses[stream], content), pusher.clone());
                let (answers, received) = (Arc::clone(&self.answers), Arc::clone(&self.received));
                let before = callers[stream].pop_front().expect("a stream has a caller");
                callers[stream].push_back(Some(tokio::spawn(async move {
                    if let Some(before) = before {
                        before.await.expect(NO_PANIC);
                    }
                    let answer = pusher.push(push).await;
                    answers.lock().expect(NO_PANIC).add(answer);
                    received.answered();
                })));
            }
        }
        Ok(())
    }

    /// Deliveries that the server has counted as dropped so far. A ledger counts pushes, a batch as one.
    pub(crate) fn dropped(&self) -> u64 {
        self.answers.lock().expect(NO_PANIC).ledger.dropped.total() * self.batch
    }

    /// Waits for all answers. Fails if one does not come in time.
    pub(crate) async fn answers(&mut self) -> Result<Answers> {
        let begun = match &mut self.way {
            Way::Yardstick { .. } => None,
            Way::Calls { callers, .. } => {
                let callers = std::mem::take(callers);
                in_time(async {
                    for call in callers.into_iter().flatten().flatten() {
                        call.await.expect(NO_PANIC);
                    }
                })
                .await?;
                None
            }
            Way::OneStream { pushes, reader, .. } => {
                pushes.end();
                in_time(async { reader.await.expect(NO_PANIC) }).await?;
                Some(pushes.begun)
            }
        };
        let answers = self.answers.lock().expect(NO_PANIC).clone();
        if let Some(begun) = begun.filter(|begun| answers.given + answers.refused != *begun) {
            return Err(format!("{} of {begun} pushes are answered", answers.given).into());
        }
        Ok(answers)
    }

    /// What feeds the yardstick, if it is one.
    pub(crate) fn into_feed(self) -> Option<Feed> {
        match self.way {
            Way::Yardstick { feed, .. } => Some(feed),
            _ => None,
        }
    }
}

async fn in_time(answers: impl Future<Output = ()>) -> Result<()> {
    let outcome = tokio::time::timeout(ANSWERS, answers).await;
    outcome.map_err(|_| format!("pushes are unanswered after {ANSWERS:?}").into())
}

/// Takes the answers of a stream to its end.
async fn read(mut replies: StreamAnswers, answers: SharedAnswers, received: Arc<Received>) {
    loop {
        match replies.next().await {
            Ok(Some(batch)) => {
                let mut answers = answers.lock().expect(NO_PANIC);
                batch.into_iter().for_each(|answer| answers.add(answer));
            }
            Ok(None) => return,
            Err(status) => return answers.lock().expect(NO_PANIC).add(Err(status)),
        }
        received.answered();
    }
}

impl Answers {
    /// Whether the server counts deliveries: goim does not.
    pub(crate) fn has_ledger(&self) -> bool {
        self.ledger.replies > 0
    }

    fn add(&mut self, answer: Result<Option<Ledger>, Status>) {
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
