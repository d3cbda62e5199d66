//! Where pushes go: calls of a server's push API, or the feed of a yardstick.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::Result;
use crate::grpc::{Address, Ledger, LedgerSums, Push, PushStream, Pusher, StreamAnswers};
use crate::plan::Plan;
use crate::stats::Reasons;
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
    /// Of each stream; none at a yardstick.
    addresses: Vec<Address>,
    streams: usize,
    operation: i32,
    /// Messages in one push.
    batch: u64,
    /// Pushes so far.
    pushed: u64,
    answers: SharedAnswers,
    /// Woken by answers: they say what was dropped.
    received: watch::Sender<u64>,
}

enum Way {
    /// The callers of each stream take turns; the one in front is next.
    Calls {
        pusher: Pusher,
        callers: Vec<Callers>,
    },
    /// Its answers are read by a task of their own.
    OneStream {
        pushes: PushStream,
        reader: JoinHandle<()>,
    },
    Yardstick(Feed),
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
    pub(crate) async fn open(
        sink: Sink,
        plan: &Plan,
        received: watch::Sender<u64>,
    ) -> Result<Self> {
        let answers = SharedAnswers::default();
        let (way, addresses) = match sink {
            Sink::Yardstick(feed) => (Way::Yardstick(feed), Vec::new()),
            Sink::Server { grpc, addresses, method: PushMethod::OneStream } => {
                let (pushes, replies) = PushStream::open(&grpc).await?;
                let reading = read(replies, Arc::clone(&answers), received.clone());
                (Way::OneStream { pushes, reader: tokio::spawn(reading) }, addresses)
            }
            Sink::Server { grpc, addresses, method: PushMethod::Calls { callers } } => {
                let idle = || (0..callers).map(|_| None).collect();
                let callers = addresses.iter().map(|_| idle()).collect();
                (Way::Calls { pusher: Pusher::connect(&grpc).await?, callers }, addresses)
            }
        };
        let (streams, operation, batch) = (plan.members.len(), plan.operation, plan.batch);
        Ok(Self { way, addresses, streams, operation, batch, pushed: 0, answers, received })
    }

    /// The content of a push is frames, not one body.
    pub(crate) fn takes_frames(&self) -> bool {
        matches!(self.way, Way::Yardstick(_)) || self.batch > 1
    }

    /// Pushes `content` to `stream`, after what the same caller pushed to it before. Fails if a yardstick has
    /// ended; what a server answers is looked at in the end.
    pub(crate) fn push(&mut self, stream: usize, content: Vec<u8>) -> Result<()> {
        self.pushed += 1;
        if let Way::Yardstick(feed) = &mut self.way {
            return Ok(feed.push((self.streams > 1).then_some(stream), &content)?);
        }
        let to = self.addresses[stream].clone();
        let push = Push { to, operation: self.operation, content, is_batch: self.batch > 1 };
        match &mut self.way {
            Way::Yardstick(_) => {}
            Way::OneStream { pushes, .. } => pushes.push(push),
            Way::Calls { pusher, callers } => {
                let mut pusher = pusher.clone();
                let (answers, received) = (Arc::clone(&self.answers), self.received.clone());
                let before = callers[stream].pop_front().expect("a stream has a caller");
                callers[stream].push_back(Some(tokio::spawn(async move {
                    if let Some(before) = before {
                        before.await.expect(NO_PANIC);
                    }
                    let answer = pusher.push(push).await;
                    answers.lock().expect(NO_PANIC).add(answer);
                    received.send_modify(|_| ());
                })));
            }
        }
        Ok(())
    }

    /// Deliveries that the server has counted as dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.answers.lock().expect(NO_PANIC).ledger.dropped.total() * self.batch
    }

    /// Waits for all answers; gives them, and what feeds the yardstick, if it is one. Fails if an answer does not
    /// come in time.
    pub(crate) async fn finish(self) -> Result<(Answers, Option<Feed>)> {
        let calls: Vec<JoinHandle<()>> = match self.way {
            Way::Yardstick(feed) => return Ok((Answers::default(), Some(feed))),
            Way::Calls { callers, .. } => callers.into_iter().flatten().flatten().collect(),
            Way::OneStream { pushes, reader } => {
                // Ends the stream: no more come.
                drop(pushes);
                vec![reader]
            }
        };
        let all = async {
            for call in calls {
                call.await.expect(NO_PANIC);
            }
        };
        let in_time = tokio::time::timeout(ANSWERS, all).await;
        in_time.map_err(|_| format!("pushes are unanswered after {ANSWERS:?}"))?;
        let answers = self.answers.lock().expect(NO_PANIC).clone();
        if answers.given + answers.refused != self.pushed {
            return Err(format!("{} of {} pushes are answered", answers.given, self.pushed).into());
        }
        Ok((answers, None))
    }
}

/// Takes the answers of a stream to its end.
async fn read(mut replies: StreamAnswers, answers: SharedAnswers, received: watch::Sender<u64>) {
    loop {
        match replies.next().await {
            Ok(Some(batch)) => {
                let mut answers = answers.lock().expect(NO_PANIC);
                batch.into_iter().for_each(|answer| answers.add(answer));
            }
            Ok(None) => return,
            Err(status) => return answers.lock().expect(NO_PANIC).add(Err(status)),
        }
        received.send_modify(|_| ());
    }
}

impl Answers {
    /// Whether the server counts deliveries: goim does not.
    pub(crate) fn has_ledger(&self) -> bool {
        self.ledger.replies > 0
    }

    /// Deliveries that the server has counted as dropped. A ledger counts pushes, a batch as one.
    pub(crate) fn dropped(&self, batch: u64) -> Reasons {
        let mut dropped = self.ledger.dropped.clone();
        dropped.values_mut().for_each(|count| *count *= batch);
        dropped
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
