//! A service behind its gate: the steps before and after the service handles a request.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::http::header::{CACHE_CONTROL, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming as Wire;
use hyper::service::Service as HyperService;
use tokio::time::timeout;
use tonic::Status;
use tonic::codegen::Service as _;

use crate::caller::Caller;
use crate::connection_limit::ConnectionPermit;
use crate::gate::Gate;
use crate::grpc::REFLECTION;
use crate::offload::{Frames, poll_offloaded};
use crate::refusal::Refusal;
use crate::request_body::{Arrivals, Form, RequestBody};
use crate::responses::{Kind, TrackedBody};
use crate::trace_parent::TracedRequest;
use crate::watch::{WATCH, Watch};

/// The protocol of a gate's requests.
#[derive(Clone, Debug)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http,
    /// gRPC over HTTP/2.
    Grpc {
        /// Paths of calls whose caller sends a stream, beside reflection.
        streams: Arc<[&'static str]>,
        /// Paths of calls whose answers are encoded on the blocking pool.
        lists: Arc<[&'static str]>,
        /// Paths of calls that are handled on the blocking pool.
        reports: Arc<[&'static str]>,
    },
}

/// The service of one connection.
pub(crate) struct Guarded {
    pub(crate) router: Router,
    pub(crate) protocol: Protocol,
    pub(crate) gate: Arc<Gate>,
    pub(crate) permit: Arc<ConnectionPermit>,
    pub(crate) caller: Caller,
    /// The caller's address and the name in its certificate, as the access log shows them.
    pub(crate) peer: Arc<str>,
    /// See [`Accepting::has_host`](crate::listen::Accepting::has_host).
    pub(crate) has_host: bool,
}

impl HyperService<Request<Wire>> for Guarded {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Wire>) -> Self::Future {
        self.permit.begin_request();
        let arrivals = Arrivals::default();
        let (head, wire) = request.into_parts();
        let form = match &self.protocol {
            Protocol::Http => Form::Whole,
            Protocol::Grpc { .. } if REFLECTION.contains(&head.uri.path()) => Form::Questions,
            Protocol::Grpc { streams, .. } if streams.contains(&head.uri.path()) => Form::Stream,
            Protocol::Grpc { .. } => Form::Call,
        };
        let is_list = matches!(&self.protocol, Protocol::Grpc { lists, .. } if lists.contains(&head.uri.path()));
        let is_report = matches!(&self.protocol, Protocol::Grpc { reports, .. } if reports.contains(&head.uri.path()));
        let (gate, permit) = (Arc::clone(&self.gate), Arc::clone(&self.permit));
        let access = gate.access_log().begin(&self.peer, head.uri.path());
        let has_host = self.has_host && form == Form::Whole;
        let mut is_let_in = gate.access_control().check(&head, has_host);
        if is_let_in.is_ok()
            && let Some(shown) = gate.access_control().shown(&head)
            && permit.note_shown(shown)
        {
            // A token removed before it was noted would end no connection, so the check is repeated.
            is_let_in = gate.access_control().check(&head, has_host);
        }
        let misses_token = gate.access_control().misses_token(&head);
        let is_watch = form == Form::Call && head.uri.path() == WATCH;
        let responses = Arc::clone(gate.responses(misses_token));
        let unsent = Arc::clone(permit.unsent());
        let body = is_let_in.and_then(|()| {
            if form != Form::Whole && responses.is_full(is_list || is_report) {
                return Err(Refusal::Answers);
            }
            let watch = if is_watch { Some(gate.watch()?) } else { None };
            let of = (form, misses_token);
            let body = RequestBody::new(wire, of, Arc::clone(&gate), permit, arrivals.clone())?;
            Ok((body, watch))
        });
        let (body, watch) = match body {
            Ok(body) => body,
            Err(refusal) => {
                gate.count_refusal(refusal);
                gate.warn_of_refusal(refusal, &self.peer, &head.headers);
                access.answer(Err(&refusal.status(gate.request_time())));
                let refused = refused(form, refusal, gate.request_time());
                return Box::pin(async { Ok(refused) });
            }
        };
        let traced = match gate.is_traced() && !form.is_stream() {
            true => TracedRequest::of(head.uri.path(), &head.headers),
            false => None,
        };
        let limit = if form == Form::Whole { None } else { grpc_timeout(&head.headers) };
        let mut request = Request::from_parts(head, Body::new(body));
        request.extensions_mut().insert(arrivals.clone());
        let (caller, mut router) = (self.caller, self.router.clone());
        let of_handler = access.clone();
        let answer = async move {
            if !is_report {
                let answer = of_handler.run(caller.run(router.call(request)));
                return match traced {
                    Some(traced) => traced.run(answer).await,
                    None => answer.await,
                };
            }
            // The whole body is read first, so that a slow caller occupies no thread.
            let (head, body) = request.into_parts();
            let request = Request::from_parts(head, Body::new(Frames::of(body).await));
            let permit = gate.report().await;
            poll_offloaded(async move {
                let _permit = permit;
                let answer = of_handler.run(caller.run(router.call(request)));
                let (head, body) = answer.await?.into_parts();
                Ok(Response::from_parts(head, Body::new(Frames::of(body).await)))
            })
            .await
        };
        Box::pin(async move {
            let mut response = match limit {
                Some(limit) => match timeout(limit, answer).await {
                    Ok(answer) => answer?,
                    Err(_) => Status::deadline_exceeded("the caller's own deadline has passed")
                        .into_http(),
                },
                None => answer.await?,
            };
            access.respond(&response);
            if form == Form::Whole
                && let Some(status) = arrivals.refused()
            {
                *response.status_mut() = status;
            }
            if is_list {
                let (head, body) = response.into_parts();
                let body = Body::new(poll_offloaded(Frames::of(body)).await);
                response = Response::from_parts(head, body);
            }
            if let Some(permit) = watch {
                response = response.map(|answer| Body::new(Watch::new(answer, permit)));
            }
            if form != Form::Whole && !response.body().is_end_stream() {
                let kind = if form.is_stream() || is_watch { Kind::Stream } else { Kind::Call };
                response = response
                    .map(|answer| Body::new(TrackedBody::new(answer, &responses, kind, &unsent)));
            }
            if misses_token {
                name_scheme(response.headers_mut());
            }
            if form == Form::Whole {
                forbid_storing(response.headers_mut());
            }
            // Messages that the service has not taken count until here.
            drop(arrivals);
            Ok(response)
        })
    }
}

fn refused(form: Form, refusal: Refusal, limit: Duration) -> Response<Body> {
    let status = refusal.status(limit);
    let mut response = match form {
        Form::Whole => {
            let mut response = Response::new(Body::from(format!("{}\n", status.message())));
            *response.status_mut() = refusal.http_status();
            forbid_storing(response.headers_mut());
            response
        }
        Form::Call | Form::Stream | Form::Questions => status.into_http(),
    };
    if refusal == Refusal::NoToken {
        // Over gRPC this distinguishes it from the service's refusal of a token inside the request.
        name_scheme(response.headers_mut());
    }
    response
}

/// Announces that other calls, or the same call with another token, need a token (RFC 9110, 11.6.1).
fn name_scheme(headers: &mut HeaderMap) {
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
}

/// Responses say what is the case now. A cache may store one without this header (RFC 9111, section 4.2.2), and would answer
/// health checks with it while the server drains.
fn forbid_storing(headers: &mut HeaderMap) {
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// The caller's deadline (gRPC over HTTP/2, `Timeout`): at most eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value = digits.parse::<u64>().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_deadline_is_read() {
        let check = |text: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(grpc_timeout(&headers), expected, "{text}");
        };
        check("5S", Some(Duration::from_secs(5)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        check("200m", Some(Duration::from_millis(200)));
        for text in ["", "S", "5", "5x", "123456789S", "-1S", "1 S"] {
            check(text, None);
        }
    }
}
