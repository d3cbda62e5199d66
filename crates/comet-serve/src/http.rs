//! HTTP: serving a router, `/healthz`, and refusals in words.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::caller::identify;
use crate::listen::no_delay;
use crate::phase::{Phase, stopped};

/// Serves `router` until [`Phase::Stopped`] and the end of all calls.
pub(crate) async fn serve(router: Router, listener: TcpListener, phase: watch::Receiver<Phase>) {
    let incoming = listener.tap_io(no_delay);
    // axum's accept loop has no error to return; its signature leaves room for one.
    let router = router.layer(axum::middleware::from_fn(identify));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let _ = axum::serve(incoming, service).with_graceful_shutdown(stopped(phase)).await;
}

/// The route `/healthz`: 200 while the server is ready, else 503; the body names the phase.
pub fn healthz(phase: watch::Receiver<Phase>) -> Router {
    Router::new().route("/healthz", axum::routing::get(health)).with_state(phase)
}

async fn health(State(phase): State<watch::Receiver<Phase>>) -> (StatusCode, &'static str) {
    match *phase.borrow() {
        Phase::Ready => (StatusCode::OK, "ok\n"),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Draining | Phase::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

/// A refusal as a sentence: 400 for a bad request, else 503.
#[must_use]
pub fn refusal(status: &Status) -> Response {
    let code = match status.code() {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, format!("{}\n", status.message())).into_response()
}
