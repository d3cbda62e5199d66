//! The stat addresses: `/healthz`, `/metrics` and `/stat`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::sync::watch;
use tonic::Status;

use crate::exposition::CONTENT_TYPE;
use crate::hub::Unfinished;
use crate::monitor::Monitor;
use crate::serve::Phase;

/// The routes; an unknown path is 404, another method 405.
pub(crate) fn router(monitor: Monitor, phase: watch::Receiver<Phase>) -> Router {
    let monitored = Router::new()
        .route("/metrics", get(metrics))
        .route("/stat", get(stat))
        .with_state(Arc::new(monitor));
    Router::new().route("/healthz", get(healthz)).with_state(phase).merge(monitored)
}

async fn healthz(State(phase): State<watch::Receiver<Phase>>) -> (StatusCode, &'static str) {
    match *phase.borrow() {
        Phase::Ready => (StatusCode::OK, "ok\n"),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Draining | Phase::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> Response {
    match monitor.read().await {
        Ok(reading) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], reading.metrics()).into_response(),
        Err(unfinished) => unavailable(unfinished),
    }
}

async fn stat(State(monitor): State<Arc<Monitor>>) -> Response {
    match monitor.read().await {
        Ok(reading) => Json(reading.stat()).into_response(),
        Err(unfinished) => unavailable(unfinished),
    }
}

fn unavailable(unfinished: Unfinished) -> Response {
    let sentence = format!("{}\n", Status::from(unfinished).message());
    (StatusCode::SERVICE_UNAVAILABLE, sentence).into_response()
}
