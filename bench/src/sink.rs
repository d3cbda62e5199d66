//! Where pushes go: calls of a server's push API, or the feed of a yardstick.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// A [`Sink`] that is open.
pub(crate) enum OpenSink {
    Server(Box<Calls>),
    Yardstick { feed: Feed, has_streams: bool },
}

/// The pushes under way.
pub(crate) struct Calls {
    api: Api,
    operation: i32,
    /// Messages in one push.
    batch: u64,
    addresses: Vec<Address>,
    answers: SharedAnswers,
    received: Arc<Received>,
}

/// An open [`PushMethod`].
enum Api {
    /// The callers of each stream take turns; the one in front is next.
    Unary {
        pusher: Pusher,
        callers: Vec<VecDeque<Option<JoinHandle<()>>>>,
    },
    Stream {
        pushes: PushStream,
        reader: JoinHandle<()>,
    },
}

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

#[derive(Clone, Default)]
struct SharedAnswers(Arc<Mutex<Answers>>);

impl OpenSink {
    /// Opens `sink` for `plan`. Fails where nobody listens at the push API.
    pub(crate) async fn open(sink: Sink, plan: &Plan, received: &Arc<Received>) -> Result<Self> {
        let (grpc, addresses, method) = match sink {
            Sink::Yardstick(feed) => {
                return Ok(Self::Yardstick { feed, has_streams: plan.members.len() > 1 });
            }
            Sink::Server { grpc, addresses, method } => (grpc, addresses, method),
        };
        let answers = SharedAnswers::default();
        let received = Arc::clone(received);
        let api = match method {
            PushMethod::OneStream => {
                let (pushes, replies) = PushStream::open(&grpc).await?;
                let reading = read(replies, answers.clone(), Arc::clone(&received));
                Api::Stream { pushes, reader: tokio::spawn(reading) }
            }
            PushMethod::Calls { callers } => {
                let idle = || (0..callers).map(|_| None).collect();
                let callers = addresses.iter().map(|_| idle()).collect();
                Api::Unary { pusher: Pusher::connect(&grpc).await?, callers }
            }
        };
        let (operation, batch) = (plan.operation, plan.batch);
        Ok(Self::Server(Box::new(Calls { api, operation, batch, addresses, answers, received })))
    }

    /// The content of a push is frames, not one body.
    pub(crate) fn takes_frames(&self) -> bool {
        match self {
            Self::Yardstick { .. } => true,
            Self::Server(calls) => calls.is_batch(),
        }
    }

    /// Pushes `content` to `stream`, after what the same caller pushed to it before. Fails where a yardstick has
    /// ended; what a server answers is looked at in the end.
    pub(crate) fn push(&mut self, stream: usize, content: Vec<u8>) -> Result<()> {
        match self {
            Self::Yardstick { feed, has_streams } => {
                feed.push(has_streams.then_some(stream), &content)?;
            }
            Self::Server(calls) => calls.begin(stream, content),
        }
        Ok(())
    }

    /// Deliveries that the server has counted as dropped so far. A ledger counts pushes, a batch as one.
    pub(crate) fn dropped(&self) -> u64 {
        match self {
            Self::Yardstick { .. } => 0,
            Self::Server(calls) => calls.answers.lock().ledger.dropped() * calls.batch,
        }
    }

    /// Waits for all answers. Fails where one does not come in time.
    pub(crate) async fn answers(&mut self) -> Result<Answers> {
        match self {
            Self::Yardstick { .. } => Ok(Answers::default()),
            Self::Server(calls) => calls.finish().await,
        }
    }

    /// What feeds the yardstick, if it is one.
    pub(crate) fn into_feed(self) -> Option<Feed> {
        match self {
            Self::Yardstick { feed, .. } => Some(feed),
            Self::Server(_) => None,
        }
    }
}

impl Calls {
    fn begin(&mut self, stream: usize, content: Vec<u8>) {
        let to = self.addresses[stream].clone();
        let push = Push { to, operation: self.operation, content, is_batch: self.is_batch() };
        let (pusher, callers) = match &mut self.api {
            Api::Unary { pusher, callers } => (pusher, &mut callers[stream]),
            Api::Stream { pushes, .. } => return pushes.push(push),
        };
        let (mut pusher, answers) = (pusher.clone(), self.answers.clone());
        let before = callers.pop_front().expect("a stream has a caller");
        let received = Arc::clone(&self.received);
        callers.push_back(Some(tokio::spawn(async move {
            if let Some(before) = before {
                before.await.expect(NO_PANIC);
            }
            let answer = pusher.push(push).await;
            answers.lock().add(answer);
            received.answered();
        })));
    }

    fn is_batch(&self) -> bool {
        self.batch > 1
    }

    async fn finish(&mut self) -> Result<Answers> {
        let in_time = match &mut self.api {
            Api::Unary { callers, .. } => {
                let callers = std::mem::take(callers);
                let all = async {
                    for call in callers.into_iter().flatten().flatten() {
                        call.await.expect(NO_PANIC);
                    }
                };
                tokio::time::timeout(ANSWERS, all).await
            }
            Api::Stream { pushes, reader } => {
                pushes.end();
                let read = tokio::time::timeout(ANSWERS, reader).await;
                read.map(|read| read.expect(NO_PANIC))
            }
        };
        in_time.map_err(|_| format!("pushes are unanswered after {ANSWERS:?}"))?;
        let answers = self.answers.lock().clone();
        if let Api::Stream { pushes, .. } = &self.api
            && answers.given + answers.refused != pushes.begun
        {
            let given = answers.given;
            return Err(format!("{given} of {} pushes are answered", pushes.begun).into());
        }
        Ok(answers)
    }
}

/// Takes the answers of a stream to its end.
async fn read(mut replies: StreamAnswers, answers: SharedAnswers, received: Arc<Received>) {
    loop {
        match replies.next().await {
            Ok(Some(batch)) => {
                let mut answers = answers.lock();
                batch.into_iter().for_each(|answer| answers.add(answer));
            }
            Ok(None) => return,
            Err(status) => return answers.lock().add(Err(status)),
        }
        received.answered();
    }
}

impl SharedAnswers {
    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
                ledger.into_iter().for_each(|ledger| self.ledger.add(ledger));
            }
            Err(status) => {
                self.refused += 1;
                let words = || format!("{:?}: {}", status.code(), status.message());
                self.refusal.get_or_insert_with(words);
            }
        }
    }
}
