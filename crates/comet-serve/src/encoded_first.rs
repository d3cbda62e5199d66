//! A channel for long requests.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Service, StdError};

use crate::channel::GrpcChannel;
use crate::offload::Frames;

/// A channel whose requests are encoded where their calls are polled, not where the connection is polled. It is for
/// calls inside of [`poll_offloaded`](crate::poll_offloaded); answers are decoded there in any case.
#[derive(Clone, Debug)]
pub struct EncodedFirst(pub GrpcChannel);

impl Service<Request<Body>> for EncodedFirst {
    type Response = Response<Body>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, StdError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let next = self.0.clone();
        let mut ready = mem::replace(&mut self.0, next);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = Body::new(Frames::of(body).await);
            ready.call(Request::from_parts(head, body)).await
        })
    }
}
