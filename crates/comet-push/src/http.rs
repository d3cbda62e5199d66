//! The HTTP push API of goim's logic, on the `push.http` addresses, and in `comet logic` on those of
//! `logic_server.http`: its routes, and the form of its answers.
//!
//! An answer is JSON, `{"code":0,"message":"","data":…}`. As in goim a call that failed is HTTP 200, too,
//! and its code names the cause: -400 the request, -500 the server; `message` is the sentence and there
//! is no `data`. `unanswered` has the servers that may have taken a push all the same. A request that does not come in is HTTP 408 or 503, with code -408 or -503; one for which too
//! many are under way is HTTP 429 with code -429, as HTTP clients and proxies expect. (goim also writes 400 into the status line where a parameter does not parse; a caller
//! that reads the code sees no difference.) A request for anything else is answered with HTTP 404 or 405.

mod body;
mod broadcasts;
mod kick;
mod node_admin;
mod nodes;
mod online;
mod push;
mod rooms;
mod trace;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use axum::{Json, Router};
use comet_serve::{Arrivals, CallCounts, cause};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::backend::{MayHaveTaken, OfAllHosts, PushBackend, StreamBackend};
use crate::node::{ClientEndpoint, NodeList};
use crate::node_admin::NodeAdmin;

/// The whole API: `routes` are those of [`push_routes`], [`node_routes`] and [`call`], merged.
pub fn http_api(routes: Router) -> Router {
    routes.fallback(unknown_path).method_not_allowed_fallback(wrong_method)
}

/// `/goim/push/*` and `/goim/online/*`.
pub fn push_routes<B: PushBackend>(backend: Arc<B>, counts: &Arc<CallCounts>) -> Router {
    let bodies = body::Bodies::new(backend.bounds());
    let api = Arc::new(push::Api { backend, bodies });
    let get = MethodFilter::GET;
    Router::new()
        .merge(call(MethodFilter::POST, "/goim/push/keys", counts, &api, push::keys))
        .merge(call(MethodFilter::POST, "/goim/push/mids", counts, &api, push::mids))
        .merge(call(MethodFilter::POST, "/goim/push/room", counts, &api, push::room))
        .merge(call(MethodFilter::POST, "/goim/push/all", counts, &api, push::all))
        .merge(route(get, "/goim/online/top", counts, &api, online::top, of_all_hosts))
        .merge(route(get, "/goim/online/room", counts, &api, online::room, of_all_hosts))
        .merge(route(get, "/goim/online/total", counts, &api, online::total, of_all_hosts))
}

/// `/comet/broadcasts` and `/comet/broadcasts/cancel`. goim has no such calls.
pub fn broadcast_routes<B: StreamBackend>(backend: &Arc<B>, counts: &Arc<CallCounts>) -> Router {
    use broadcasts::{cancel, list};
    Router::new()
        .merge(call(MethodFilter::GET, "/comet/broadcasts", counts, backend, list))
        .merge(call(MethodFilter::POST, "/comet/broadcasts/cancel", counts, backend, cancel))
}

/// `/comet/kick/*`. goim has no such calls.
pub fn kick_routes<B: StreamBackend>(backend: &Arc<B>, counts: &Arc<CallCounts>) -> Router {
    Router::new()
        .merge(call(MethodFilter::POST, "/comet/kick/keys", counts, backend, kick::keys))
        .merge(call(MethodFilter::POST, "/comet/kick/mids", counts, backend, kick::mids))
        .merge(call(MethodFilter::POST, "/comet/kick/room", counts, backend, kick::room))
        .merge(call(MethodFilter::POST, "/comet/kick/address", counts, backend, kick::address))
}

/// `/comet/rooms/*`. goim has no such calls.
pub fn room_routes<B: StreamBackend>(backend: &Arc<B>, counts: &Arc<CallCounts>) -> Router {
    use rooms::{join_keys, join_mids, leave_keys, leave_mids};
    let post = MethodFilter::POST;
    Router::new()
        .merge(call(post, "/comet/rooms/join/keys", counts, backend, join_keys))
        .merge(call(post, "/comet/rooms/join/mids", counts, backend, join_mids))
        .merge(call(post, "/comet/rooms/leave/keys", counts, backend, leave_keys))
        .merge(call(post, "/comet/rooms/leave/mids", counts, backend, leave_mids))
}

/// `/comet/node/*`. goim has no such calls.
pub fn admin_routes<O: NodeAdmin>(admin: &Arc<O>, counts: &Arc<CallCounts>) -> Router {
    use node_admin::{block, blocks, cancel_move_off, drain, move_off, status, unblock, undrain};
    let cancel = "/comet/node/move_off/cancel";
    let get = MethodFilter::GET;
    Router::new()
        .merge(call(MethodFilter::GET, "/comet/node/status", counts, admin, status))
        .merge(call(MethodFilter::POST, "/comet/node/drain", counts, admin, drain))
        .merge(call(MethodFilter::POST, "/comet/node/undrain", counts, admin, undrain))
        .merge(call(MethodFilter::POST, "/comet/node/move_off", counts, admin, move_off))
        .merge(call(MethodFilter::POST, cancel, counts, admin, cancel_move_off))
        .merge(call(MethodFilter::POST, "/comet/node/block", counts, admin, block))
        .merge(call(MethodFilter::POST, "/comet/node/unblock", counts, admin, unblock))
        .merge(call(MethodFilter::GET, "/comet/node/blocks", counts, admin, blocks))
        .merge(route(get, "/comet/node/trace", counts, admin, trace::begin, trace::lines))
}

/// `/goim/nodes/*`. `node` has the settings for clients about the servers in `list`.
pub fn node_routes<N: NodeList>(
    list: Arc<N>,
    node: ClientEndpoint,
    counts: &Arc<CallCounts>,
) -> Router {
    let nodes = Arc::new(nodes::Nodes { node, list });
    Router::new()
        .merge(call(MethodFilter::GET, "/goim/nodes/weighted", counts, &nodes, nodes::weighted))
        .merge(call(MethodFilter::GET, "/goim/nodes/instances", counts, &nodes, nodes::instances))
}

/// The route of one call. `handle` makes the answer's data from `state` and the request; answers are counted under the
/// path.
pub fn call<S, F>(
    method: MethodFilter,
    path: &'static str,
    counts: &Arc<CallCounts>,
    state: &Arc<S>,
    handle: fn(Arc<S>, Request) -> F,
) -> Router
where
    S: Send + Sync + 'static,
    F: Future<Output = Result<Value, Status>> + Send + 'static,
{
    let answer = |data| Json(json!({ "code": 0, "message": "", "data": data })).into_response();
    route(method, path, counts, state, handle, answer)
}

/// The hosts whose part is missing, if any, are added next to `data`.
fn of_all_hosts(OfAllHosts { value: data, unanswered }: OfAllHosts<Value>) -> Response {
    let mut answer = json!({ "code": 0, "message": "", "data": data });
    if !unanswered.is_empty() {
        answer["unanswered"] = json!(unanswered);
    }
    Json(answer).into_response()
}

/// As [`call`], with a function that makes the response from the result of `handle`.
fn route<S, F, T>(
    method: MethodFilter,
    path: &'static str,
    counts: &Arc<CallCounts>,
    state: &Arc<S>,
    handle: fn(Arc<S>, Request) -> F,
    answer: fn(T) -> Response,
) -> Router
where
    S: Send + Sync + 'static,
    F: Future<Output = Result<T, Status>> + Send + 'static,
    T: 'static,
{
    let (counts, state) = (Arc::clone(counts), Arc::clone(state));
    let handler = move |request: Request| {
        let (counts, state) = (Arc::clone(&counts), Arc::clone(&state));
        let arrivals = request.extensions().get::<Arrivals>().cloned().unwrap_or_default();
        async move {
            match counts.of(path, handle(state, request)).await {
                Ok(made) => answer(made),
                // A mistake in the request comes before the reason why the rest of it did not arrive: to try again
                // would be in vain.
                Err(status) if status.code() == Code::InvalidArgument => {
                    arrivals.forget_refusal();
                    failed_as(&status)
                }
                Err(status) if let Some(refused) = arrivals.refused() => {
                    failed(-i32::from(refused.as_u16()), status.message())
                }
                Err(status) if status.code() == Code::ResourceExhausted => {
                    let busy = StatusCode::TOO_MANY_REQUESTS;
                    (busy, failed(-429, status.message())).into_response()
                }
                Err(status) => failed_as(&status),
            }
        }
    };
    Router::new().route(path, on(method, handler))
}

/// goim's code for an error.
fn code(status: &Status) -> i32 {
    match status.code() {
        Code::InvalidArgument => -400,
        Code::NotFound => -404,
        _ => -500,
    }
}

/// What went wrong, and where the push may have been taken all the same.
fn failed_as(status: &Status) -> Response {
    let mut answer = json!({ "code": code(status), "message": status.message() });
    if let Some(MayHaveTaken(servers)) = cause(status) {
        answer["unanswered"] = json!(servers);
    }
    Json(answer).into_response()
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
