//! A channel for calls to a server that may be behind a proxy. It recognizes answers that are not gRPC, and repeats
//! calls that no server has processed.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::time::sleep;
use tonic::body::Body;
use tonic::codegen::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use tonic::codegen::http::{HeaderMap, Request, Response, StatusCode};
use tonic::codegen::{Bytes, Service, StdError};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Response as Answer, Status};

use crate::http2_stream::LastProtocolError;
use crate::outgoing::Outgoing;
use crate::peer::{BearerToken, Peer};

/// The header or trailer with the status of a call.
const GRPC_STATUS: &str = "grpc-status";

/// Most attempts for a call that no server has processed.
const ATTEMPTS: u32 = 8;

/// The pause before the third attempt; each further one is twice as long. The second follows at once.
const PAUSE: Duration = Duration::from_millis(5);

/// A [`Channel`] whose answers come from a gRPC server. Any other answer is an error with a [`NotGrpc`]: the page of a
/// gateway, or a reply that ends before its status. An answer that is not even HTTP/2 is an error that shows its first
/// bytes.
#[derive(Clone, Debug)]
pub struct GrpcChannel {
    service: InterceptedService<Channel, BearerToken>,
    protocol_error: LastProtocolError,
    has_token: bool,
    /// The message of its calls, if somebody wants to know of it.
    outgoing: Option<Outgoing>,
}

impl GrpcChannel {
    /// A channel to `peer`, whose calls have `token`.
    #[must_use]
    pub fn new(peer: &Peer, channel: Channel, token: BearerToken) -> Self {
        let (protocol_error, has_token) = (peer.protocol_error(), token.is_some());
        let service = InterceptedService::new(channel, token);
        Self { service, protocol_error, has_token, outgoing: None }
    }

    /// The same channel for one call, whose message is `outgoing`.
    #[must_use]
    pub fn for_call(&self, outgoing: &Outgoing) -> Self {
        Self { outgoing: Some(outgoing.clone()), ..self.clone() }
    }

    /// Whether its calls have a token.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.has_token
    }
}

impl Service<Request<Body>> for GrpcChannel {
    type Response = Response<Body>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, StdError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.service.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request = match &self.outgoing {
            Some(outgoing) => request.map(|body| outgoing.body(body)),
            None => request,
        };
        let (answer, protocol_error) = (self.service.call(request), self.protocol_error.clone());
        Box::pin(async move {
            let answer = answer.await.map_err(|error| match protocol_error.not_http2() {
                Some(begin) => begin.into(),
                None => StdError::from(error),
            })?;
            if let Some(page) = page(answer.status(), answer.headers()) {
                return Err(page.into());
            }
            // The status is in the trailers, or in the headers of an answer without a body.
            let has_status = answer.headers().contains_key(GRPC_STATUS);
            Ok(answer.map(|body| Body::new(Reply { body: Body::new(body), has_status })))
        })
    }
}

fn page(status: StatusCode, headers: &HeaderMap) -> Option<NotGrpc> {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or("?"));
    let is_grpc = kind.is_some_and(|kind| kind.starts_with("application/grpc"));
    let is_answer = headers.contains_key(GRPC_STATUS) || (status == StatusCode::OK && is_grpc);
    (!is_answer).then(|| NotGrpc::Page { status, kind: kind.map(str::to_owned) })
}

/// The body of an answer. It must end with a status.
struct Reply {
    body: Body,
    has_status: bool,
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let trailers = frame.trailers_ref();
                self.has_status |=
                    trailers.is_some_and(|trailers| trailers.contains_key(GRPC_STATUS));
                Some(Ok(frame))
            }
            Some(Err(status)) => Some(Err(status.into())),
            None if self.has_status => None,
            None => {
                // The error is reported once.
                self.has_status = true;
                Some(Err(NotGrpc::Cut.into()))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_status && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer that no gRPC server gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotGrpc {
    /// HTTP, but not gRPC.
    Page {
        /// Its status.
        status: StatusCode,
        /// Its content type.
        kind: Option<String>,
    },
    /// The reply ended before its status.
    Cut,
}

impl fmt::Display for NotGrpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page { status, kind: Some(kind) } => {
                write!(f, "no gRPC, but HTTP {} with {kind:?}", status.as_u16())
            }
            Self::Page { status, kind: None } => {
                write!(f, "no gRPC, but HTTP {}", status.as_u16())
            }
            Self::Cut => f.write_str("the reply ended before its status"),
        }
    }
}

impl Error for NotGrpc {}

/// Makes a call, and repeats it if no server has processed it, as gRPC's transparent retry does. That is so if the
/// server closed the connection before it took the call (GOAWAY), if it refused the stream, or if the connection ended
/// while the call waited to be sent. The channel opens a new connection for it.
///
/// # Errors
/// The status of the last attempt.
pub async fn call_until_processed<T, F>(call: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    for attempt in 1..ATTEMPTS {
        match call().await {
            Err(status) if is_unprocessed(&status) => {}
            answer => return answer,
        }
        if attempt > 1 {
            sleep(PAUSE * (1 << (attempt - 2))).await;
        }
    }
    call().await
}

/// Whether no server has processed the call, so that a new connection may take it.
#[must_use]
pub fn is_unprocessed(status: &Status) -> bool {
    // RFC 9113, 6.8: streams above the last one that GOAWAY names were not processed, and h2 fails only those with it.
    // 8.7: a refused stream was not processed either.
    let by_server = cause::<h2::Error>(status).is_some_and(|error| {
        error.is_remote()
            && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    });
    by_server || cause::<hyper::Error>(status).is_some_and(hyper::Error::is_canceled)
}

/// Whether the server refused the caller for its token, and not for the content of the call. As in HTTP, it then names
/// the scheme that it expects (RFC 9110, 11.6.1).
#[must_use]
pub fn is_caller_refused(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
        && status.metadata().contains_key(WWW_AUTHENTICATE.as_str())
}

/// Whether the server answered a call without a token and says that other calls need one. Then its health is known, and
/// no other call will succeed.
#[must_use]
pub fn misses_token<T>(answer: &Answer<T>) -> bool {
    answer.metadata().contains_key(WWW_AUTHENTICATE.as_str())
}

/// The first error of type `E` among the sources of `error`.
#[must_use]
pub fn cause<'error, E: Error + 'static>(
    error: &'error (dyn Error + 'static),
) -> Option<&'error E> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}
