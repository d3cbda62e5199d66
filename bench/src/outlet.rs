//! Where pushes go: calls of a server's push API, or the feed of a yardstick.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::Result;
use crate::grpc::{Address, Ledger, LedgerSums, Push, PushStream, Pusher, StreamAnswers};
use crate::sender::{Plan, Progress};
use crate::yardstick::Feed;

/// How long answers may take after the last call.
const ANSWERS: Duration = Duration::from_secs(30);

const NO_PANIC: &str = "a caller does not panic";

/// Where pushes are to go.
pub(crate) enum Sink {
    /// To a server's push API; each stream has an address.
    Server { grpc: String, addresses: Vec<Address>, manner: Manner },
    /// To a yardstick: to all its connections, or to one where each is a stream.
    Yardstick(Feed),
}

/// How pushes are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// By a call each. So many callers take turns at each stream, and each waits for the answer to its last
    /// call before it makes another: what it pushes stays in order, beside what the others push.
    Calls { callers: usize },
    /// Through one PushStream, which keeps all in order.
    OneStream,
}

/// A [`Sink`] that is open.
pub(crate) enum Outlet {
    Server(Box<Calls>),
    Yardstick { feed: Feed, has_streams: bool },
}

/// The pushes under way.
pub(crate) struct Calls {
    way: Way,
    operation: i32,
    /// Messages in one push.
    batch: u64,
    addresses: Vec<Address>,
    answers: Arc<Mutex<Answers>>,
    progress: Arc<Progress>,
}

/// How pushes are made.
enum Way {
    /// By a call each. The callers of each stream take turns; the one in front is next.
    Unary { pusher: Pusher, callers: Vec<VecDeque<Option<JoinHandle<()>>>> },
    /// By one PushStream, which keeps them in order.
    Stream { pushes: PushStream, reader: JoinHandle<()> },
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

impl Outlet {
    /// Opens `sink` for `plan`.
    ///
    /// # Errors
    ///
    /// Nobody listens at the push API.
    pub(crate) async fn open(sink: Sink, plan: &Plan, progress: &Arc<Progress>) -> Result<Self> {
        let (grpc, addresses, manner) = match sink {
            Sink::Yardstick(feed) => {
                return Ok(Self::Yardstick { feed, has_streams: plan.members.len() > 1 });
            }
            Sink::Server { grpc, addresses, manner } => (grpc, addresses, manner),
        };
        let answers = Arc::<Mutex<Answers>>::default();
        let progress = Arc::clone(progress);
        let way = match manner {
            Manner::OneStream => {
                let (pushes, replies) = PushStream::open(&grpc).await?;
                let reading = read(replies, Arc::clone(&answers), Arc::clone(&progress));
                Way::Stream { pushes, reader: tokio::spawn(reading) }
            }
            Manner::Calls { callers } => {
                let idle = || (0..callers).map(|_| None).collect();
                let callers = addresses.iter().map(|_| idle()).collect();
                Way::Unary { pusher: Pusher::connect(&grpc).await?, callers }
            }
        };
        let (operation, batch) = (plan.operation, plan.batch);
        Ok(Self::Server(Box::new(Calls { way, operation, batch, addresses, answers, progress })))
    }

    /// The content of a push is frames, not one body.
    pub(crate) fn takes_frames(&self) -> bool {
        match self {
            Self::Yardstick { .. } => true,
            Self::Server(calls) => calls.is_batch(),
        }
    }

    /// Pushes `content` to `stream`, after what the same caller pushed to it before.
    ///
    /// # Errors
    ///
    /// The yardstick has ended. What a server answers is looked at in the end.
    pub(crate) fn push(&mut self, stream: usize, content: Vec<u8>) -> Result<()> {
        match self {
            Self::Yardstick { feed, has_streams } => {
                feed.push(has_streams.then_some(stream), &content)?;
            }
            Self::Server(calls) => calls.begin(stream, content),
        }
        Ok(())
    }

    /// Deliveries the server has owned to not making, so far. A ledger counts pushes, a batch as one.
    pub(crate) fn dropped(&self) -> u64 {
        match self {
            Self::Yardstick { .. } => 0,
            Self::Server(calls) => calls.answers().ledger.dropped() * calls.batch,
        }
    }

    /// Waits for all answers.
    ///
    /// # Errors
    ///
    /// One does not come in time.
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
        let (pusher, callers) = match &mut self.way {
            Way::Unary { pusher, callers } => (pusher, &mut callers[stream]),
            Way::Stream { pushes, .. } => return pushes.push(push),
        };
        let (mut pusher, answers) = (pusher.clone(), Arc::clone(&self.answers));
        let before = callers.pop_front().expect("a stream has a caller");
        let progress = Arc::clone(&self.progress);
        callers.push_back(Some(tokio::spawn(async move {
            if let Some(before) = before {
                before.await.expect(NO_PANIC);
            }
            let answer = pusher.push(push).await;
            answers.lock().unwrap_or_else(PoisonError::into_inner).add(answer);
            progress.answered();
        })));
    }

    fn is_batch(&self) -> bool {
        self.batch > 1
    }

    async fn finish(&mut self) -> Result<Answers> {
        let in_time = match &mut self.way {
            Way::Unary { callers, .. } => {
                let callers = std::mem::take(callers);
                let all = async {
                    for call in callers.into_iter().flatten().flatten() {
                        call.await.expect(NO_PANIC);
                    }
                };
                tokio::time::timeout(ANSWERS, all).await
            }
            Way::Stream { pushes, reader } => {
                pushes.end();
                let read = tokio::time::timeout(ANSWERS, reader).await;
                read.map(|read| read.expect(NO_PANIC))
            }
        };
        in_time.map_err(|_| format!("pushes are unanswered after {ANSWERS:?}"))?;
        let answers = self.answers().clone();
        if let Way::Stream { pushes, .. } = &self.way
            && answers.given + answers.refused != pushes.begun
        {
            let given = answers.given;
            return Err(format!("{given} of {} pushes are answered", pushes.begun).into());
        }
        Ok(answers)
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the answers of a stream to its end.
async fn read(mut replies: StreamAnswers, answers: Arc<Mutex<Answers>>, progress: Arc<Progress>) {
    loop {
        let batch = match replies.next().await {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(status) => {
                return answers.lock().unwrap_or_else(PoisonError::into_inner).add(Err(status));
            }
        };
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        batch.into_iter().for_each(|answer| answers.add(answer));
        drop(answers);
        progress.answered();
    }
}

impl Answers {
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
