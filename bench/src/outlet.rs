//! Where pushes go: calls of a server's push API, or the feed of a yardstick.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::Result;
use crate::grpc::{Address, Ledger, LedgerSums, Push, Pusher};
use crate::sender::Plan;
use crate::yardstick::Feed;

/// How long answers may take after the last call.
const ANSWERS: Duration = Duration::from_secs(30);

/// Where pushes are to go.
pub(crate) enum Sink {
    /// To a server's push API; each stream has an address.
    Server { grpc: String, addresses: Vec<Address> },
    /// To a yardstick.
    Yardstick(Feed),
}

/// A [`Sink`] that is open.
pub(crate) enum Outlet {
    Server(Box<Calls>),
    Yardstick(Feed),
}

/// The calls under way.
pub(crate) struct Calls {
    pusher: Pusher,
    operation: i32,
    /// Messages in one push.
    batch: u64,
    addresses: Vec<Address>,
    /// The last call of each stream; it waits for the one before it.
    last: Vec<Option<JoinHandle<()>>>,
    answers: Arc<Mutex<Answers>>,
}

/// What was answered.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct Answers {
    pub ledger: LedgerSums,
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
    pub(crate) async fn open(sink: Sink, plan: &Plan) -> Result<Self> {
        Ok(match sink {
            Sink::Yardstick(feed) => Self::Yardstick(feed),
            Sink::Server { grpc, addresses } => Self::Server(Box::new(Calls {
                pusher: Pusher::connect(&grpc).await?,
                operation: plan.operation,
                batch: plan.batch,
                last: addresses.iter().map(|_| None).collect(),
                addresses,
                answers: Arc::default(),
            })),
        })
    }

    /// The content of a push is frames, not one body.
    pub(crate) fn takes_frames(&self) -> bool {
        match self {
            Self::Yardstick(_) => true,
            Self::Server(calls) => calls.is_batch(),
        }
    }

    /// Pushes `content` to `stream`, after what was pushed to it before.
    ///
    /// # Errors
    ///
    /// The yardstick has ended. What a server answers is looked at in the end.
    pub(crate) fn push(&mut self, stream: usize, content: Vec<u8>) -> Result<()> {
        match self {
            Self::Yardstick(feed) => feed.push(&content)?,
            Self::Server(calls) => calls.begin(stream, content),
        }
        Ok(())
    }

    /// Deliveries the server has owned to not making, so far. A ledger counts pushes, a batch as one.
    pub(crate) fn dropped(&self) -> u64 {
        match self {
            Self::Yardstick(_) => 0,
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
            Self::Yardstick(_) => Ok(Answers::default()),
            Self::Server(calls) => calls.finish().await,
        }
    }

    /// What feeds the yardstick, if it is one.
    pub(crate) fn into_feed(self) -> Option<Feed> {
        match self {
            Self::Yardstick(feed) => Some(feed),
            Self::Server(_) => None,
        }
    }
}

impl Calls {
    fn begin(&mut self, stream: usize, content: Vec<u8>) {
        let to = self.addresses[stream].clone();
        let push = Push { to, operation: self.operation, content, is_batch: self.is_batch() };
        let (mut pusher, answers) = (self.pusher.clone(), Arc::clone(&self.answers));
        let before = self.last[stream].take();
        self.last[stream] = Some(tokio::spawn(async move {
            if let Some(before) = before {
                before.await.expect("a call does not panic");
            }
            let answer = pusher.push(push).await;
            answers.lock().unwrap_or_else(PoisonError::into_inner).add(answer);
        }));
    }

    fn is_batch(&self) -> bool {
        self.batch > 1
    }

    async fn finish(&mut self) -> Result<Answers> {
        let last = std::mem::take(&mut self.last);
        let all = async {
            for call in last.into_iter().flatten() {
                call.await.expect("a call does not panic");
            }
        };
        let in_time = tokio::time::timeout(ANSWERS, all).await;
        in_time.map_err(|_| format!("pushes are unanswered after {ANSWERS:?}"))?;
        Ok(self.answers().clone())
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn add(&mut self, answer: Result<Option<Ledger>, Status>) {
        match answer {
            Ok(Some(ledger)) => self.ledger.add(ledger),
            Ok(None) => {}
            Err(status) => {
                self.refused += 1;
                let words = || format!("{:?}: {}", status.code(), status.message());
                self.refusal.get_or_insert_with(words);
            }
        }
    }
}
