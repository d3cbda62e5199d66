//! Debug pages of any process: profiles at `/debug/pprof/`, and the level of the log at `/log/level`. These pages do
//! not authenticate callers; the gate in front of them does, and they have an address of their own. Profiles are long,
//! so they are encoded and drawn outside of the thread that serves.

use std::time::Duration;

use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use comet_serve::{Query, offload, refusal};
use log::LevelFilter;
use serde_json::{Value, json};
use tonic::Status;

use crate::heap::{self, HeapProfile};
use crate::profile::{NoProfile, Profile};

/// The duration of a profile if the request names none.
const SECONDS: Duration = Duration::from_secs(10);

/// Most seconds of a profile.
const SECONDS_MAX: i64 = 60;

/// `Content-Type` of an encoded profile; browsers save it.
const PROTOBUF: &str = "application/octet-stream";
const SVG: &str = "image/svg+xml";

const PATH_LEVEL: &str = "/log/level";

/// The routes of the profiles.
pub fn profiles() -> Router {
    Router::new()
        .route("/debug/pprof/profile", get(profile))
        .route("/debug/pprof/flamegraph", get(flamegraph))
        .route("/debug/pprof/heap", get(heap))
        .route("/debug/pprof/heap/flamegraph", get(heap_flamegraph))
}

/// The route that reads and sets the level of the log.
pub fn log_level() -> Router {
    Router::new().route(PATH_LEVEL, get(async || Json(level())).put(set_level))
}

/// Why a request for a profile is refused.
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
    let profile = take(&uri).await?;
    let profile = offload(move || profile.encode()).await.map_err(Refused::Profile)?;
    Ok(([(header::CONTENT_TYPE, PROTOBUF)], profile).into_response())
}

async fn flamegraph(uri: Uri) -> Result<Response, Refused> {
    let profile = take(&uri).await?;
    let picture = offload(move || profile.flamegraph()).await;
    Ok(([(header::CONTENT_TYPE, SVG)], picture).into_response())
}

async fn heap(uri: Uri) -> Result<Response, Refused> {
    let profile = take_heap(&uri).await?;
    let profile = offload(move || profile.encode()).await;
    Ok(([(header::CONTENT_TYPE, PROTOBUF)], profile).into_response())
}

async fn heap_flamegraph(uri: Uri) -> Result<Response, Refused> {
    let query = Query::read(uri.query()).map_err(Refused::Query)?;
    let kind = query.optional_choice("sample", &heap::KINDS).map_err(Refused::Query)?;
    let profile = take_heap(&uri).await?;
    let picture = offload(move || profile.flamegraph(kind.unwrap_or(heap::KIND))).await;
    Ok(([(header::CONTENT_TYPE, SVG)], picture).into_response())
}

/// Takes the CPU profile that the query requests.
async fn take(uri: &Uri) -> Result<Profile, Refused> {
    let time = seconds(uri)?.unwrap_or(SECONDS);
    log::info!("taking a CPU profile for {} s", time.as_secs());
    Profile::take(time).await.map_err(Refused::Profile)
}

/// Takes the heap profile that the query requests.
async fn take_heap(uri: &Uri) -> Result<HeapProfile, Refused> {
    let profile = match seconds(uri)? {
        Some(_) if heap::is_kept() => {
            let sentence = "seconds: this process samples its heap from its start on: take two \
                            profiles without it, and compare them (go tool pprof -diff_base)";
            return Err(Refused::Query(Status::invalid_argument(sentence)));
        }
        None if heap::is_kept() => heap::read().await,
        time => {
            let time = time.unwrap_or(SECONDS);
            log::info!("taking a heap profile for {} s", time.as_secs());
            heap::take(time).await
        }
    };
    profile.map_err(Refused::Profile)
}

/// The length of the profile, if the query has one.
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
