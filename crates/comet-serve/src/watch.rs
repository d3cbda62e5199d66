//! Watches of health: answers without an end. A gate has a limited number of permits for them.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// The call that watches health.
pub(crate) const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The answer of a watch. Its permit is free once it is dropped: at its end, or when its caller has left.
pub(crate) struct Watch {
    answer: Body,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    pub(crate) fn new(answer: Body, permit: OwnedSemaphorePermit) -> Self {
        Self { answer, _permit: permit }
    }
}

impl http_body::Body for Watch {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.answer).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
