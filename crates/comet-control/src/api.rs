//! The HTTP push API of goim's logic, on the `push.http` addresses, and in `comet logic` on those of
//! `logic_server.http`: its routes, and the form of its answers.
//!
//! An answer is JSON, `{"code":0,"message":"","data":…}`. As in goim a call that failed is HTTP 200, too,
//! and its code says what failed: -400 the request, -500 the server; `message` is the sentence and there
//! is no `data`. (goim also writes 400 into the status line where a parameter does not parse; a caller
//! that reads the code sees no difference.) What is no call at all is answered with HTTP 404 or 405.

mod body;
mod nodes;
mod online;
mod push;
mod sessions;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use axum::{Json, Router};
use comet_serve::{CallCounts, Phase};
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::reach::Reach;

pub(crate) use body::Bodies;
pub(crate) use nodes::Instance;
pub use nodes::Node;
pub(crate) use online::fullest;

/// What every call works with.
pub(crate) struct Api {
    pub(crate) reach: Reach,
    pub(crate) counts: Arc<CallCounts>,
    pub(crate) bodies: Bodies,
    pub(crate) node: Node,
    pub(crate) server_id: String,
    pub(crate) version: &'static str,
    /// Where the gRPC service is.
    pub(crate) grpc: Vec<SocketAddr>,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// All routes.
pub(crate) fn router(api: Api) -> Router {
    let sessions = match api.reach {
        Reach::Comets(_) => call(MethodFilter::POST, "/comet/sessions/end", sessions::end),
        // They end with their connections.
        Reach::Shards(_) => Router::new(),
    };
    Router::new()
        .merge(sessions)
        .merge(call(MethodFilter::POST, "/goim/push/keys", push::keys))
        .merge(call(MethodFilter::POST, "/goim/push/mids", push::mids))
        .merge(call(MethodFilter::POST, "/goim/push/room", push::room))
        .merge(call(MethodFilter::POST, "/goim/push/all", push::all))
        .merge(call(MethodFilter::GET, "/goim/online/top", online::top))
        .merge(call(MethodFilter::GET, "/goim/online/room", online::room))
        .merge(call(MethodFilter::GET, "/goim/online/total", online::total))
        .merge(call(MethodFilter::GET, "/goim/nodes/weighted", nodes::weighted))
        .merge(call(MethodFilter::GET, "/goim/nodes/instances", nodes::instances))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::new(api))
}

/// The route of one call; its answers are counted under its path.
fn call<F>(
    method: MethodFilter,
    path: &'static str,
    handle: fn(Arc<Api>, Request) -> F,
) -> Router<Arc<Api>>
where
    F: Future<Output = Result<Value, Status>> + Send + 'static,
{
    let handler = async move |State(api): State<Arc<Api>>, request: Request| {
        let counts = Arc::clone(&api.counts);
        match counts.of(path, handle(api, request)).await {
            Ok(data) => Json(json!({ "code": 0, "message": "", "data": data })).into_response(),
            Err(status) => failed(code(&status), status.message()),
        }
    };
    Router::new().route(path, on(method, handler))
}

/// goim's code for what went wrong.
fn code(status: &Status) -> i32 {
    match status.code() {
        Code::InvalidArgument => -400,
        _ => -500,
    }
}

fn failed(code: i32, message: &str) -> Response {
    Json(json!({ "code": code, "message": message })).into_response()
}

async fn unknown_path(uri: Uri) -> (StatusCode, Response) {
    (StatusCode::NOT_FOUND, failed(-404, &format!("there is no {}", uri.path())))
}

async fn wrong_method(method: Method, uri: Uri) -> (StatusCode, Response) {
    let message = format!("{} does not take {method}", uri.path());
    (StatusCode::METHOD_NOT_ALLOWED, failed(-405, &message))
}
