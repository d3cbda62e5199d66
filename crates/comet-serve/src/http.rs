//! HTTP: `/healthz`, and refusals in words.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::phase::Phase;

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
