//! The stream of `comet.v1.Push`: many pushes, each begun like a single call, and their answers in the order of the
//! requests.
//!
//! One poll takes the requests that have arrived, begins them all, and then takes the answers that are ready. A push is
//! taken only while fewer than [`UNDER_WAY_MAX`] are unanswered, and only while the caller reads. Further pushes wait
//! in the connection's flow control window.

use std::collections::VecDeque;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use comet_serve::{AccessLogEntry, Arrivals, CallCounts, Caller, Received};
use comet_wire::comet::v1::push_stream_reply::answer::Outcome;
use comet_wire::comet::v1::push_stream_reply::{Answer, Error};
use comet_wire::comet::v1::push_stream_req::{Keys, Target, Users};
use comet_wire::comet::v1::{PushStreamReply, PushStreamReq};
use comet_wire::goim::comet::Ledger;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming};

use crate::backend::StreamBackend;

/// Most unanswered pushes of one stream.
const UNDER_WAY_MAX: usize = 1_024;

/// Most answers in one message.
const ANSWERS_MAX: usize = 256;

/// The answers of a stream. Polling them begins its pushes.
pub(crate) struct PushStream<B: StreamBackend> {
    requests: Streaming<PushStreamReq>,
    /// The bytes of the requests, which count until they are answered.
    arrivals: Arrivals,
    input: Input,
    /// In the order of arrival.
    under_way: VecDeque<Push<B::UnderWay>>,
    backend: Arc<B>,
    /// The caller of the stream.
    caller: Caller,
    counts: Arc<CallCounts>,
    access: AccessLogEntry,
    /// Number of pushes taken; `failed` are those that failed.
    pushes: u64,
    failed: u64,
    /// Ready when the servers end.
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A push that is not answered.
struct Push<U> {
    id: u64,
    begin: Instant,
    outcome: Result<U, Status>,
    _received: Option<Received>,
}

/// Whether more requests come.
enum Input {
    Open,
    Ended,
    /// Ends the stream with this status once every push taken is answered.
    Failed(Status),
}

impl<B: StreamBackend> PushStream<B> {
    pub(crate) fn new(
        requests: Streaming<PushStreamReq>,
        arrivals: Arrivals,
        backend: Arc<B>,
        counts: Arc<CallCounts>,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            requests,
            arrivals,
            input: Input::Open,
            under_way: VecDeque::new(),
            backend,
            caller: Caller::current(),
            counts,
            access: AccessLogEntry::current(),
            pushes: 0,
            failed: 0,
            stopped: Box::pin(stopped),
        }
    }

    fn take_requests(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.input, Input::Open) {
            return;
        }
        if self.stopped.as_mut().poll(cx).is_ready() {
            self.input = Input::Failed(Status::unavailable(
                "the server is going down; pushes without an answer were not made",
            ));
            return;
        }
        while self.under_way.len() < UNDER_WAY_MAX {
            match Pin::new(&mut self.requests).poll_next(cx) {
                Poll::Ready(Some(Ok(request))) => {
                    let (id, received) = (request.id, self.arrivals.take());
                    let begin = Instant::now();
                    let outcome = self.caller.enter(|| self.begin(request));
                    self.pushes += 1;
                    self.under_way.push_back(Push { id, begin, outcome, _received: received });
                }
                Poll::Ready(Some(Err(status))) => return self.input = Input::Failed(status),
                Poll::Ready(None) => return self.input = Input::Ended,
                Poll::Pending => return,
            }
        }
    }

    fn begin(&self, request: PushStreamReq) -> Result<B::UnderWay, Status> {
        let PushStreamReq { target, proto, proto_op, .. } = request;
        match target {
            Some(Target::Keys(Keys { keys })) => self.backend.begin_keys(keys, proto, proto_op),
            Some(Target::Users(Users { users })) => {
                self.backend.begin_users(users, proto, proto_op)
            }
            Some(Target::RoomId(room)) => self.backend.begin_room(room, proto),
            None => Err(Status::invalid_argument("no target is given: name keys, users or a room")),
        }
    }

    fn take_answers(&mut self, cx: &mut Context<'_>) -> Vec<Answer> {
        let mut answers = Vec::new();
        while answers.len() < ANSWERS_MAX
            && let Some(Push { id, begin, outcome, .. }) = self.under_way.front_mut()
        {
            let outcome = match outcome {
                Ok(push) => match Pin::new(push).poll(cx) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => break,
                },
                Err(refusal) => Err(mem::replace(refusal, Status::new(Code::Ok, ""))),
            };
            self.counts.count("PushStream", begin.elapsed(), &outcome);
            self.failed += u64::from(outcome.is_err());
            answers.push(Answer { id: *id, outcome: Some(answered(outcome)) });
            self.under_way.pop_front();
        }
        answers
    }
}

impl<B: StreamBackend> Drop for PushStream<B> {
    /// Unanswered pushes are counted when the caller cuts the stream off.
    fn drop(&mut self) {
        for Push { begin, .. } in &self.under_way {
            self.counts.add("PushStream", begin.elapsed(), Code::Cancelled);
        }
        let (pushes, failed, unanswered) = (self.pushes, self.failed, self.under_way.len());
        self.access.add(format_args!("pushes={pushes} failed={failed} unanswered={unanswered}"));
    }
}

impl<B: StreamBackend> Stream for PushStream<B> {
    type Item = Result<PushStreamReply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.take_requests(cx);
        let answers = self.take_answers(cx);
        if !answers.is_empty() {
            // The rest is taken at the next poll.
            return Poll::Ready(Some(Ok(PushStreamReply { answers })));
        }
        if !self.under_way.is_empty() {
            return Poll::Pending;
        }
        match mem::replace(&mut self.input, Input::Ended) {
            Input::Open => {
                self.input = Input::Open;
                Poll::Pending
            }
            Input::Ended => {
                self.access.answer(Ok(()));
                Poll::Ready(None)
            }
            Input::Failed(status) => {
                self.access.answer(Err(&status));
                Poll::Ready(Some(Err(status)))
            }
        }
    }
}

/// `outcome` as a message of the wire.
fn answered(outcome: Result<Ledger, Status>) -> Outcome {
    match outcome {
        Ok(ledger) => Outcome::Ledger(ledger),
        Err(status) => {
            let message = status.message().to_owned();
            Outcome::Error(Error { code: status.code() as i32, message })
        }
    }
}
