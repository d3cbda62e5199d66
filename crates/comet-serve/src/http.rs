//! HTTP: `/healthz`, and refusals in words.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tonic::{Code, Status};

use crate::health::Health;

/// The route `/healthz`: 200 while the process is healthy, else 503; the body says why.
pub fn healthz(health: impl Into<Health>) -> Router {
    Router::new().route("/healthz", axum::routing::get(check)).with_state(health.into())
}

async fn check(State(health): State<Health>) -> (StatusCode, String) {
    match health.check() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
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
