//! The stat addresses: `/healthz`, `/metrics`, `/stat`, `/stat/rooms`, `/connections`, `/members`,
//! `/history`, `/top` and `/buildinfo`. They only read; what changes the server is at the debug addresses.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use comet_ops::CONTENT_TYPE;
use comet_serve::{Health, Query, healthz, offload, refusal};
use serde_json::Value;
use tonic::{Code, Status};

use crate::connections;
use crate::history;
use crate::members;
use crate::monitor::Monitor;
use crate::stat::top_rooms;
use crate::status::status;
use crate::top;

/// Rooms in an answer if the request names no limit.
const TOP: usize = 10;

/// Most rooms in one answer.
const TOP_MAX: usize = 10_000;

/// The routes; an unknown path is 404, another method 405.
pub(crate) fn router(monitor: Arc<Monitor>, health: Health) -> Router {
    let monitored = Router::new()
        .route("/metrics", get(metrics))
        .route("/stat", get(stat))
        .route("/stat/rooms", get(rooms))
        .route("/connections", get(connections))
        .route("/members", get(members))
        .route("/history", get(history))
        .route("/top", get(top_lists))
        .route("/buildinfo", get(build_info))
        .with_state(monitor);
    healthz(health).merge(monitored)
}

async fn metrics(State(monitor): State<Arc<Monitor>>) -> Response {
    match monitor.read().await {
        Ok(reading) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], reading.metrics()).into_response(),
        Err(unfinished) => refusal(&status(unfinished)),
    }
}

async fn stat(State(monitor): State<Arc<Monitor>>, uri: Uri) -> Response {
    let answer = async {
        let top = rooms_asked(&uri)?;
        let (reading, rooms) = tokio::try_join!(
            monitor.read_all(),
            monitor.rooms(move |rooms| top_rooms(&rooms, top))
        )
        .map_err(status)?;
        Ok::<_, Status>(reading.stat(&rooms))
    };
    answered(answer.await)
}

async fn rooms(State(monitor): State<Arc<Monitor>>, uri: Uri) -> Response {
    let answer = async {
        let top = rooms_asked(&uri)?;
        monitor.rooms(move |rooms| top_rooms(&rooms, top)).await.map_err(status)
    };
    answered(answer.await)
}

async fn connections(State(monitor): State<Arc<Monitor>>, uri: Uri) -> Response {
    let answer = async {
        let request = connections::request(&Query::read(uri.query())?)?;
        let json = |reply| connections::json(&reply).to_string();
        monitor.inspector.connections(&request, json).await
    };
    encoded(answer.await)
}

async fn members(State(monitor): State<Arc<Monitor>>, uri: Uri) -> Response {
    let answer = async {
        let request = members::request(&Query::read(uri.query())?)?;
        let reply = monitor.questions.members(request).await?;
        Ok(offload(move || members::json(&reply).to_string()).await)
    };
    encoded(answer.await)
}

async fn history(State(monitor): State<Arc<Monitor>>, uri: Uri) -> Response {
    let answer = async {
        let request = history::request(&Query::read(uri.query())?)?;
        monitor.inspector.history(request, |reply| history::json(&reply).to_string()).await
    };
    encoded(answer.await)
}

async fn top_lists(State(monitor): State<Arc<Monitor>>, uri: Uri) -> Response {
    let answer = async {
        let query = Query::read(uri.query())?;
        let limit = query.optional_number("limit", 1..=i64::from(top::LIMIT_MAX))?;
        monitor.inspector.top(limit, |reply| top::json(&reply).to_string()).await
    };
    encoded(answer.await)
}

/// An answer that was encoded on the blocking pool.
fn encoded(json: Result<String, Status>) -> Response {
    match json {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(status) if status.code() == Code::FailedPrecondition => {
            (StatusCode::CONFLICT, format!("{}\n", status.message())).into_response()
        }
        Err(status) => refusal(&status),
    }
}

async fn build_info(State(monitor): State<Arc<Monitor>>) -> Json<Value> {
    Json(comet_ops::build_info(monitor.version))
}

/// How many rooms the query asks for.
fn rooms_asked(uri: &Uri) -> Result<usize, Status> {
    let asked = Query::read(uri.query())?.optional_number("top", 1..=TOP_MAX as i64)?;
    Ok(if asked == 0 { TOP } else { asked })
}

fn answered(answer: Result<Value, Status>) -> Response {
    match answer {
        Ok(value) => Json(value).into_response(),
        Err(status) => refusal(&status),
    }
}
