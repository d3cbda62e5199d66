//! The message of a call on its way to a server.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;

/// No connection has the message.
const WAITS: u8 = 0;
/// A connection has it, or had: the server may process the call.
const LEFT: u8 = 1;
/// No connection gets it any more.
const TAKEN_BACK: u8 = 2;

/// The message of one call. Until a connection takes it, no server can have processed the call, and it can be taken
/// back. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Outgoing(Arc<AtomicU8>);

impl Outgoing {
    /// Another attempt begins, as no server has processed the former one.
    pub fn begin_again(&self) {
        self.replace(LEFT, WAITS);
    }

    /// Takes the message back. False: it is too late, and the server may process the call.
    #[must_use]
    pub fn take_back(&self) -> bool {
        self.replace(WAITS, TAKEN_BACK)
    }

    /// `body` as the message of this call.
    pub(crate) fn body(&self, body: Body) -> Body {
        Body::new(OutgoingBody { body, outgoing: self.clone() })
    }

    fn leave(&self) -> bool {
        self.replace(WAITS, LEFT)
    }

    /// Whether it is `next` by now.
    fn replace(&self, former: u8, next: u8) -> bool {
        match self.0.compare_exchange(former, next, Relaxed, Relaxed) {
            Ok(_) => true,
            Err(state) => state == next,
        }
    }
}

/// HTTP/2 asks a body for its bytes when the call has its stream on a connection, and not before.
struct OutgoingBody {
    body: Body,
    outgoing: Outgoing,
}

impl HttpBody for OutgoingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match frame {
            Some(Ok(_)) if !self.outgoing.leave() => {
                Some(Err(Status::cancelled("the call was taken back")))
            }
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(body: &mut Body) -> Option<Result<Bytes, Status>> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
    }

    fn message(outgoing: &Outgoing) -> Body {
        outgoing.body(Body::new(axum::body::Body::from("a push")))
    }

    #[tokio::test]
    async fn a_message_is_taken_back_until_it_has_left() {
        let outgoing = Outgoing::default();
        let mut body = message(&outgoing);
        assert_eq!(next(&mut body).await.unwrap().unwrap(), "a push");
        assert!(!outgoing.take_back());
        assert!(next(&mut body).await.is_none());
        // It was not processed, so it waits again.
        outgoing.begin_again();
        let mut body = message(&outgoing);
        assert!(outgoing.take_back());
        assert!(outgoing.take_back(), "as often as somebody asks");
        assert!(next(&mut body).await.unwrap().is_err());
        // The withdrawal is permanent.
        outgoing.begin_again();
        assert!(next(&mut message(&outgoing)).await.unwrap().is_err());
        assert!(outgoing.take_back());
    }
}
