//! The debug addresses: the pages that comet-ops has for any process, and `/white_list`, the users of the trace log,
//! who can be changed while the server runs. These addresses are apart from those of metrics, which only read.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use comet_core::Limits;
use comet_serve::refusal;
use serde_json::{Value, json};
use tonic::Status;

use crate::hub::HubDriver;

/// Users on the white list at most, as of `white_list.users`.
const USERS_MAX: usize = 65_536;

const PATH_WHITE_LIST: &str = "/white_list";

const INDEX: &str = include_str!("debug/index.html");

/// The routes; an unknown path is 404, another method 405.
pub(crate) fn router(hub: Arc<HubDriver>) -> Router {
    Router::new()
        .route("/debug/pprof/", get(async || Html(INDEX)))
        .route(PATH_WHITE_LIST, get(white_list).put(set_white_list))
        .with_state(hub)
        .merge(comet_ops::profiles())
        .merge(comet_ops::log_level())
}

async fn white_list(State(hub): State<Arc<HubDriver>>) -> Json<Value> {
    Json(json!({ "users": hub.limits().trace_users }))
}

async fn set_white_list(State(hub): State<Arc<HubDriver>>, body: String) -> Response {
    match users(&body) {
        Ok(users) if hub.has_trace_log() || users.is_empty() => {
            let old = hub.configure(|limits| Limits { trace_users: users.clone(), ..limits });
            log::warn!(
                "white_list.users are {} and not {} any more, by a call of {PATH_WHITE_LIST}",
                users.len(),
                old.trace_users.len()
            );
            Json(json!({ "users": users, "old": old.trace_users })).into_response()
        }
        Ok(_) => {
            let sentence = "white_list.file is not set: there is no file to write to\n";
            (StatusCode::CONFLICT, sentence).into_response()
        }
        Err(status) => refusal(&status),
    }
}

/// The users of `{"users":[1,2]}`, sorted, each once.
fn users(body: &str) -> Result<Box<[i64]>, Status> {
    let read = || {
        let body: Value = serde_json::from_str(body).ok()?;
        let users = body.as_object().filter(|object| object.len() == 1)?.get("users")?;
        users.as_array()?.iter().map(Value::as_i64).collect::<Option<Vec<_>>>()
    };
    let mut users = read().ok_or_else(|| {
        Status::invalid_argument("the body is not {\"users\":[…]} with whole numbers of 64 bits")
    })?;
    users.sort_unstable();
    users.dedup();
    if users.len() > USERS_MAX {
        return Err(Status::invalid_argument(format!(
            "{} users are more than the {USERS_MAX} allowed",
            users.len()
        )));
    }
    Ok(users.into())
}
