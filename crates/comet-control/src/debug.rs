//! The debug addresses: profiles at `/debug/pprof/`, and what an operator changes while the server runs,
//! `/log/level` and `/white_list`. Nobody is asked who they are; that is why they are not the addresses
//! that metrics are read from.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use comet_core::Limits;
use comet_serve::{Query, refusal};
use log::LevelFilter;
use serde_json::{Value, json};
use tonic::Status;

use crate::heap::{self, HeapProfile};
use crate::hub::Hub;
use crate::profile::{NoProfile, Profile};

/// Of a profile that was not asked to be shorter or longer.
const SECONDS: Duration = Duration::from_secs(10);

/// Seconds of a profile at most.
const SECONDS_MAX: i64 = 60;

/// `Content-Type` of an encoded profile; browsers save it.
const PROTOBUF: &str = "application/octet-stream";
const SVG: &str = "image/svg+xml";

/// Users on the white list at most, as of `white_list.users`.
const USERS_MAX: usize = 65_536;

const PATH_LEVEL: &str = "/log/level";
const PATH_WHITE_LIST: &str = "/white_list";

const INDEX: &str = include_str!("debug/index.html");

/// The routes; an unknown path is 404, another method 405.
pub(crate) fn router(hub: Arc<Hub>) -> Router {
    Router::new()
        .route("/debug/pprof/", get(async || Html(INDEX)))
        .route("/debug/pprof/profile", get(profile))
        .route("/debug/pprof/flamegraph", get(flamegraph))
        .route("/debug/pprof/heap", get(heap))
        .route("/debug/pprof/heap/flamegraph", get(heap_flamegraph))
        .route(PATH_LEVEL, get(async || Json(level())).put(set_level))
        .route(PATH_WHITE_LIST, get(white_list).put(set_white_list))
        .with_state(hub)
}

/// Why a request for a profile is not met.
enum Refused {
    Query(Status),
    Profile(NoProfile),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Query(status) => refusal(&status),
            Self::Profile(NoProfile::Busy) => {
                let sentence = "another profile is being taken: try again when it has ended\n";
                (StatusCode::CONFLICT, sentence).into_response()
            }
            Self::Profile(NoProfile::Failed(error)) => {
                let sentence = format!("no profile: {error}\n");
                (StatusCode::INTERNAL_SERVER_ERROR, sentence).into_response()
            }
        }
    }
}

async fn profile(uri: Uri) -> Result<Response, Refused> {
    let profile = take(&uri).await?.encode().map_err(Refused::Profile)?;
    Ok(([(header::CONTENT_TYPE, PROTOBUF)], profile).into_response())
}

async fn flamegraph(uri: Uri) -> Result<Response, Refused> {
    let picture = take(&uri).await?.flamegraph();
    Ok(([(header::CONTENT_TYPE, SVG)], picture).into_response())
}

async fn heap(uri: Uri) -> Result<Response, Refused> {
    let profile = take_heap(&uri).await?.encode();
    Ok(([(header::CONTENT_TYPE, PROTOBUF)], profile).into_response())
}

async fn heap_flamegraph(uri: Uri) -> Result<Response, Refused> {
    let query = Query::read(uri.query()).map_err(Refused::Query)?;
    let kind = query.optional_choice("sample", &heap::KINDS).map_err(Refused::Query)?;
    let picture = take_heap(&uri).await?.flamegraph(kind.unwrap_or(heap::KIND));
    Ok(([(header::CONTENT_TYPE, SVG)], picture).into_response())
}

/// Takes the CPU profile that the query asks for.
async fn take(uri: &Uri) -> Result<Profile, Refused> {
    let time = seconds(uri)?.unwrap_or(SECONDS);
    log::info!("taking a CPU profile for {} s", time.as_secs());
    Profile::take(time).await.map_err(Refused::Profile)
}

/// Takes the heap profile that the query asks for.
async fn take_heap(uri: &Uri) -> Result<HeapProfile, Refused> {
    let profile = match seconds(uri)? {
        Some(_) if heap::is_kept() => {
            let sentence = "seconds: this process samples its heap from its start on: take two \
                            profiles without it, and compare them (go tool pprof -diff_base)";
            return Err(Refused::Query(Status::invalid_argument(sentence)));
        }
        None if heap::is_kept() => HeapProfile::read().await,
        time => {
            let time = time.unwrap_or(SECONDS);
            log::info!("taking a heap profile for {} s", time.as_secs());
            HeapProfile::take(time).await
        }
    };
    profile.map_err(Refused::Profile)
}

/// How long the query wants a profile to be, if it says so.
fn seconds(uri: &Uri) -> Result<Option<Duration>, Refused> {
    let seconds = Query::read(uri.query())
        .and_then(|query| query.optional_number("seconds", 1..=SECONDS_MAX))
        .map_err(Refused::Query)?;
    Ok((seconds != 0).then(|| Duration::from_secs(seconds)))
}

fn level() -> Value {
    json!({ "level": log::max_level().as_str().to_lowercase() })
}

async fn set_level(body: String) -> Response {
    let Ok(wanted) = body.trim().parse::<LevelFilter>() else {
        let sentence = format!(
            "{:?} is no level: send off, error, warn, info, debug or trace as the body",
            body.trim()
        );
        return refusal(&Status::invalid_argument(sentence));
    };
    let old = log::max_level();
    log::set_max_level(wanted);
    log::warn!("log.level is {wanted} and not {old} any more, by a call of {PATH_LEVEL}");
    Json(json!({ "level": wanted.as_str().to_lowercase(), "old": old.as_str().to_lowercase() }))
        .into_response()
}

async fn white_list(State(hub): State<Arc<Hub>>) -> Json<Value> {
    Json(json!({ "users": hub.limits().trace_users }))
}

async fn set_white_list(State(hub): State<Arc<Hub>>, body: String) -> Response {
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
