//! A stream of pushes that outlives the server's process: it continues with the process that takes over, once the
//! answers of the one before have ended.

use std::collections::VecDeque;

use comet_wire::comet::v1::push_client::PushClient;
use comet_wire::comet::v1::push_stream_reply::answer::Outcome;
use comet_wire::comet::v1::{PushStreamReply, PushStreamReq};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Answer, Push, connect, request};
use crate::Result;

/// The message about unanswered pushes with which a server ends a stream.
const NOT_MADE: &str = "pushes without an answer were not made";
/// The number of streams in a row that may fail without an answer.
const ATTEMPTS_MAX: u32 = 200;
/// Time between two attempts, if nobody listens.
const ATTEMPT: std::time::Duration = std::time::Duration::from_millis(10);

/// The caller's end. Pushes keep their order across all streams.
pub(crate) struct MovingStream {
    pushes: UnboundedSender<Push>,
    runner: JoinHandle<()>,
}

impl MovingStream {
    /// Opens streams to `address`, `host:port`, whose answers are passed to `take`, in the order of the pushes. If a
    /// stream ends in a way that leaves it unclear which pushes were made, those without an answer are answered with
    /// its error.
    pub(crate) fn open(
        address: String,
        take: impl Fn(Vec<Answer>) + Send + Sync + 'static,
    ) -> Self {
        let (pushes, requests) = mpsc::unbounded_channel();
        let runner =
            tokio::spawn(Runner { address, requests, unanswered: VecDeque::new() }.run(take));
        Self { pushes, runner }
    }

    pub(crate) fn push(&self, push: Push) {
        // The runner ends with this end of the stream.
        let _ = self.pushes.send(push);
    }

    /// There are no more pushes; returns the task that ends with the last answer.
    pub(crate) fn end(self) -> JoinHandle<()> {
        self.runner
    }
}

struct Runner {
    address: String,
    requests: UnboundedReceiver<Push>,
    /// Pushes that were sent and have no answer yet, in order.
    unanswered: VecDeque<Push>,
}

/// An open stream in both directions.
struct Open {
    pushes: UnboundedSender<PushStreamReq>,
    replies: Streaming<PushStreamReply>,
    /// Ids of the next push and of the next answer.
    next: u64,
    next_answer: u64,
}

impl Runner {
    async fn run(mut self, take: impl Fn(Vec<Answer>)) {
        let mut failures = 0;
        loop {
            let status = match self.open().await {
                Ok(open) => match self.pass(open, &take, &mut failures).await {
                    Ok(()) => return,
                    Err(status) => status,
                },
                // A call that was not begun has not made any push.
                Err(status) if failures < ATTEMPTS_MAX => {
                    tokio::time::sleep(ATTEMPT).await;
                    failures += 1;
                    let _ = status;
                    continue;
                }
                Err(status) => status,
            };
            failures += 1;
            let may_repeat = status.code() == Code::Unavailable
                && status.message().contains(NOT_MADE)
                && failures < ATTEMPTS_MAX;
            if !may_repeat {
                take(self.unanswered.drain(..).map(|_| Err(status.clone())).collect());
            }
        }
    }

    /// Opens a stream, and sends the unanswered pushes on it again.
    async fn open(&self) -> Result<Open, Status> {
        let unavailable = |error: Box<dyn std::error::Error + Send + Sync>| {
            Status::unavailable(error.to_string())
        };
        let channel = connect(&self.address).await.map_err(unavailable)?;
        let (pushes, requests) = mpsc::unbounded_channel();
        let mut open = PushClient::new(channel);
        let replies = open.push_stream(UnboundedReceiverStream::new(requests)).await?;
        let mut open = Open { pushes, replies: replies.into_inner(), next: 0, next_answer: 0 };
        self.unanswered.iter().for_each(|push| open.push(push));
        Ok(open)
    }

    /// Passes on pushes and answers until the caller ends, or the stream does.
    async fn pass(
        &mut self,
        mut open: Open,
        take: &impl Fn(Vec<Answer>),
        failures: &mut u32,
    ) -> Result<(), Status> {
        let mut more = Vec::new();
        let mut is_ended = false;
        while !is_ended || !self.unanswered.is_empty() {
            tokio::select! {
                count = self.requests.recv_many(&mut more, 64), if !is_ended => {
                    is_ended = count == 0;
                    for push in more.drain(..) {
                        open.push(&push);
                        self.unanswered.push_back(push);
                    }
                }
                reply = open.replies.message() => {
                    let reply = reply?.ok_or_else(|| Status::internal("the stream ended early"))?;
                    let answers = open.answers(reply)?;
                    if self.unanswered.len() < answers.len() {
                        return Err(Status::internal("more answers than pushes"));
                    }
                    self.unanswered.drain(..answers.len());
                    *failures = 0;
                    take(answers);
                }
            }
        }
        Ok(())
    }
}

impl Open {
    fn push(&mut self, push: &Push) {
        // Where the stream has ended, the answers say so.
        let _ = self.pushes.send(request(self.next, push.clone()));
        self.next += 1;
    }

    fn answers(&mut self, reply: PushStreamReply) -> Result<Vec<Answer>, Status> {
        let answers = reply.answers.into_iter().map(|answer| {
            if answer.id != self.next_answer {
                let words = format!("push {} is answered before {}", answer.id, self.next_answer);
                return Err(Status::internal(words));
            }
            self.next_answer += 1;
            Ok(match answer.outcome {
                Some(Outcome::Ledger(ledger)) => Ok(Some(ledger)),
                Some(Outcome::Error(error)) => {
                    Err(Status::new(Code::from_i32(error.code), error.message))
                }
                None => Ok(None),
            })
        });
        answers.collect()
    }
}
