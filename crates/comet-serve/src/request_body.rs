//! The body of a request that is being received: counted as it arrives, with a deadline, and given up when others need
//! its space.
//!
//! A gRPC service gets only whole messages. Its decoder reserves the length that a message announces, and by then all
//! of that has arrived.

use std::collections::VecDeque;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use axum::http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming as Wire;

use crate::active_time::sleep_active;
use crate::connection_limit::{CallGuard, ConnectionPermit};
use crate::gate::Gate;
use crate::pieces::Pieces;
use crate::refusal::Refusal;
use crate::request_memory::{Complete, IncompleteRequest, MESSAGE_OVERHEAD, OVERHEAD};

/// The length of a gRPC message is announced by its first five bytes.
const PREFIX: usize = 5;

/// Longest request of a caller without a token where one is required, bytes. No health check is longer.
const UNAUTHENTICATED_MAX: usize = 4 << 10;

/// How the bytes of a body become messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// HTTP: the whole body is one message.
    Whole,
    /// gRPC: the one message, and the end of the call behind it, have to come in time.
    Call,
    /// gRPC: messages may come at any time, and each has to be whole in time. The service takes over the space that
    /// they count for, and frees it when it has handled them.
    Stream,
    /// As `Stream`, for a service that does not do so: a message counts until the next one is requested.
    Questions,
}

impl Form {
    pub(crate) fn is_stream(self) -> bool {
        matches!(self, Self::Stream | Self::Questions)
    }
}

/// A whole message. Until this is dropped its bytes count and its connection stays, unless its caller is
/// unauthenticated.
pub struct Received {
    _complete: Complete,
    _calling: Option<CallGuard>,
}

/// The whole messages of one request that are not taken yet, in their order.
#[derive(Clone, Default)]
pub struct Arrivals(Arc<Mutex<ArrivalState>>);

#[derive(Default)]
struct ArrivalState {
    received: VecDeque<Received>,
    refusal: Option<Refusal>,
}

impl Arrivals {
    /// The next message; `None` if there is none.
    #[must_use]
    pub fn take(&self) -> Option<Received> {
        self.lock().received.pop_front()
    }

    /// If the rest of the request will not come: the status of an HTTP answer that says why.
    #[must_use]
    pub fn refused(&self) -> Option<StatusCode> {
        self.refusal().map(Refusal::http_status)
    }

    /// The service refuses the request for a reason of its own, which the answer's status has to fit.
    pub fn forget_refusal(&self) {
        self.lock().refusal = None;
    }

    /// Why the rest will not come.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.lock().refusal
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.lock().refusal = Some(refusal);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ArrivalState> {
        self.0.lock().expect("nothing panics between lock and unlock")
    }
}

/// See the module.
pub(crate) struct RequestBody {
    wire: Wire,
    form: Form,
    /// The caller has shown no token where one is required. Its bytes count apart from those of others, and its
    /// connection has to make room for theirs.
    is_unauthenticated: bool,
    gate: Arc<Gate>,
    permit: Arc<ConnectionPermit>,
    arrivals: Arrivals,
    /// The message that is coming in.
    incomplete: Option<IncompleteRequest>,
    given_up: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Set while a message or the end of a call is awaited.
    deadline: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Bytes of an incomplete message.
    held: Pieces,
    /// Pieces of whole messages.
    whole: VecDeque<Bytes>,
    /// Counted bytes of the current message.
    counted: usize,
    is_passed_on: bool,
}

impl RequestBody {
    /// # Errors
    /// If there is no room for another request.
    pub(crate) fn new(
        wire: Wire,
        (form, is_unauthenticated): (Form, bool),
        gate: Arc<Gate>,
        permit: Arc<ConnectionPermit>,
        arrivals: Arrivals,
    ) -> Result<Self, Refusal> {
        let mut body = Self {
            form,
            is_unauthenticated,
            gate,
            permit,
            arrivals,
            incomplete: None,
            given_up: None,
            deadline: None,
            held: Pieces::default(),
            whole: VecDeque::new(),
            counted: 0,
            is_passed_on: false,
            wire,
        };
        if !body.form.is_stream() {
            body.begin()?;
        }
        if body.form == Form::Whole && body.wire.is_end_stream() {
            body.complete()?;
        }
        Ok(body)
    }

    /// A message begins to arrive.
    fn begin(&mut self) -> Result<(), Refusal> {
        if self.incomplete.is_none() {
            let memory = self.gate.request_memory(self.is_unauthenticated);
            let overhead = if self.form.is_stream() { MESSAGE_OVERHEAD } else { OVERHEAD };
            self.incomplete = Some(memory.begin(overhead).map_err(|_| Refusal::NoRoom)?);
        }
        Ok(())
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.begin()?;
        if self.is_unauthenticated && self.counted + bytes > UNAUTHENTICATED_MAX {
            return Err(Refusal::NoToken);
        }
        // The service discards the bytes beyond the longest request.
        let bytes = bytes.min(self.gate.request_max().saturating_sub(self.counted));
        self.counted += bytes;
        let incomplete = self.incomplete.as_ref().expect("it has begun");
        incomplete.grow(bytes).map_err(|_| Refusal::NoRoom)
    }

    /// The message that was arriving is whole.
    fn complete(&mut self) -> Result<(), Refusal> {
        (self.given_up, self.counted) = (None, 0);
        if self.form.is_stream() {
            self.deadline = None;
        }
        if let Some(incomplete) = self.incomplete.take() {
            let complete = incomplete.complete().map_err(|_| Refusal::NoRoom)?;
            let calling = (!self.is_unauthenticated).then(|| self.permit.begin_call());
            let received = Received { _complete: complete, _calling: calling };
            self.arrivals.lock().received.push_back(received);
        }
        Ok(())
    }

    /// Takes bytes of the wire, and moves messages that have become whole to `whole`.
    fn take(&mut self, bytes: Bytes) -> Result<(), Refusal> {
        self.grow(bytes.len())?;
        if self.form == Form::Whole || self.is_passed_on {
            self.whole.push_back(bytes);
            return Ok(());
        }
        self.held.push(bytes);
        while let Some(length) = self.announced() {
            if self.is_unauthenticated && length > UNAUTHENTICATED_MAX + PREFIX {
                return Err(Refusal::NoToken);
            }
            if length > self.gate.request_max() + PREFIX {
                // The decoder refuses the message by the prefix alone.
                self.is_passed_on = true;
                self.pass_on(self.held.len());
                return Ok(());
            }
            if self.held.len() < length {
                return Ok(());
            }
            self.pass_on(length);
            let rest = self.held.len();
            self.complete()?;
            if rest > 0 {
                self.grow(rest)?;
            }
        }
        Ok(())
    }

    /// Length of the first held message with its prefix, if the prefix has arrived.
    fn announced(&self) -> Option<usize> {
        let [_, length @ ..] = self.held.first::<PREFIX>()?;
        Some(PREFIX + u32::from_be_bytes(length) as usize)
    }

    /// Moves the first `length` held bytes to `whole`.
    fn pass_on(&mut self, length: usize) {
        self.held.move_to(length, &mut self.whole);
    }

    /// Resolves if the awaited message does not come in time, or has to make room.
    fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        if let Some(incomplete) = &self.incomplete {
            let given_up = self.given_up.get_or_insert_with(|| {
                let given_up = incomplete.given_up();
                Box::pin(async move { given_up.notified().await })
            });
            if given_up.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Refusal::NoRoom);
            }
        } else if self.form.is_stream() {
            return Poll::Pending;
        }
        let limit = self.gate.request_time();
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_active(limit)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Refusal::Late)
    }

    fn refuse(&mut self, refusal: Refusal) -> Box<dyn Error + Send + Sync> {
        (self.incomplete, self.given_up, self.deadline) = (None, None, None);
        self.gate.count_refusal(refusal);
        self.arrivals.refuse(refusal);
        refusal.status(self.gate.request_time()).into()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if this.arrivals.refusal().is_some() {
            return Poll::Ready(None);
        }
        loop {
            if let Some(piece) = this.whole.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if this.form == Form::Questions {
                this.arrivals.lock().received.clear();
            }
            let taken = match Pin::new(&mut this.wire).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => this.take(bytes),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) if this.held.is_empty() => match this.complete() {
                    Ok(()) => return Poll::Ready(None),
                    Err(refusal) => Err(refusal),
                },
                Poll::Ready(None) => {
                    // The decoder reports a message without its end.
                    this.pass_on(this.held.len());
                    Ok(())
                }
                Poll::Pending => Err(ready!(this.poll_refused(cx))),
            };
            if let Err(refusal) = taken {
                return Poll::Ready(Some(Err(this.refuse(refusal))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_empty() && self.held.is_empty() && self.wire.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.form {
            Form::Whole => self.wire.size_hint(),
            Form::Call | Form::Stream | Form::Questions => SizeHint::default(),
        }
    }
}
