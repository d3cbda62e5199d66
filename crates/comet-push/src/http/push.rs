//! `/goim/push/*`: the request body becomes the body of one frame with the operation from the query and sequence 0.
//! goim's job wraps such a frame in an op 9 on the way to comet; a client sees the same frame.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use comet_proto::VERSION;
use comet_serve::Query;
use comet_wire::goim::comet::Ledger;
use comet_wire::goim::protocol::Proto;
use serde_json::{Value, json};
use tonic::Status;

use crate::access;
use crate::backend::{PushBackend, PushResult};
use crate::http::body::Bodies;

/// The state that every call uses.
pub(super) struct Api<B> {
    pub(super) backend: Arc<B>,
    pub(super) bodies: Bodies,
}

/// Pushes to the connections that hold `keys`.
pub(super) async fn keys<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let Message { query, operation, proto } = read(&api, request).await?;
    let keys = query.list("keys")?.into_iter().map(str::to_owned).collect();
    access::to_keys(&*api.backend, keys, Some(proto), operation).await.map(data)
}

/// Pushes to every session of the users `mids`.
pub(super) async fn mids<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let Message { query, operation, proto } = read(&api, request).await?;
    let users = query.numbers("mids")?;
    access::to_users(&*api.backend, users, Some(proto), operation).await.map(data)
}

/// Pushes to the members of the room `type://room`, or of `room` without a type.
pub(super) async fn room<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let Message { query, proto, .. } = read(&api, request).await?;
    let room = room_id(&query)?;
    access::to_room(&*api.backend, room, Some(proto)).await.map(data)
}

/// Pushes to all: at once, or to `speed` connections a second.
pub(super) async fn all<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let Message { query, operation, proto } = read(&api, request).await?;
    let speed = query.optional_number("speed", 0..=i32::MAX.into())?;
    access::to_all(&*api.backend, Some(proto), operation, speed).await.map(data)
}

/// The id of the room that the query names.
pub(super) fn room_id(query: &Query) -> Result<String, Status> {
    Ok(room_prefix(query)? + query.text("room")?)
}

/// The beginning of the ids of rooms of the query's `type`. Rooms of goim v1, and those of numeric tokens, have no
/// type: without one, the room is named by its whole id.
pub(super) fn room_prefix(query: &Query) -> Result<String, Status> {
    let kind = query.text_if_given("type")?;
    Ok(kind.map_or(String::new(), |kind| format!("{kind}://")))
}

/// The common part of the four push calls.
struct Message {
    query: Query,
    operation: i32,
    proto: Proto,
}

/// Reads a request to the end of its body before checking it, so that the answer always reaches the caller.
async fn read<B>(api: &Api<B>, request: Request) -> Result<Message, Status> {
    let query = Query::read(request.uri().query());
    let body: Bytes = api.bodies.read(request).await?;
    let query = query?;
    let operation = query.number("operation", i32::MIN.into()..=i32::MAX.into())?;
    let collapse_id = query.text_if_given("collapse_id")?.unwrap_or_default().to_owned();
    let proto = Proto { ver: i32::from(VERSION), op: operation, seq: 0, body, collapse_id };
    Ok(Message { query, operation, proto })
}

/// The ledger, with the servers that the push did not reach, if any.
fn data(pushed: PushResult) -> Value {
    let mut data = ledger(pushed.ledger);
    if !pushed.failed.is_empty() {
        let failed = pushed.failed.into_iter();
        data["failed"] = failed
            .map(|failure| json!({ "server": failure.server, "message": failure.message }))
            .collect();
    }
    data
}

/// A ledger as JSON.
pub(super) fn ledger(ledger: Ledger) -> Value {
    let Ledger { matched, queued, dropped, absent, scheduled, unanswered, parked } = ledger;
    let mut data = json!({
        "matched": matched,
        "queued": queued,
        "dropped": dropped,
        "absent": absent,
        "scheduled": scheduled,
    });
    if parked > 0 {
        data["parked"] = parked.into();
    }
    if !unanswered.is_empty() {
        data["unanswered"] = unanswered.into();
    }
    data
}
