//! `/goim/push/*`: the body becomes the body of one frame with the operation of the query, sequence 0.
//! goim's job wraps such a frame in an op 9 on the way to comet; what a client sees is the same frame.

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
use crate::backend::{PushBackend, Pushed};
use crate::http::body::Bodies;

/// What every call works with.
pub(super) struct Api<B> {
    pub(super) backend: Arc<B>,
    pub(super) bodies: Bodies,
}

/// To the connections that hold `keys`.
pub(super) async fn keys<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let Message { query, operation, proto } = read(&api, request).await?;
    let keys = query.list("keys")?.into_iter().map(str::to_owned).collect();
    access::to_keys(&*api.backend, keys, Some(proto), operation).await.map(data)
}

/// To every session of the users `mids`.
pub(super) async fn mids<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let Message { query, operation, proto } = read(&api, request).await?;
    let users = query.numbers("mids")?;
    access::to_users(&*api.backend, users, Some(proto), operation).await.map(data)
}

/// To the members of the room `type://room`, or of `room` without a type.
pub(super) async fn room<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let Message { query, proto, .. } = read(&api, request).await?;
    let room = room_id(&query)?;
    access::to_room(&*api.backend, room, Some(proto)).await.map(data)
}

/// To everybody: at once, or `speed` connections a second.
pub(super) async fn all<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let Message { query, operation, proto } = read(&api, request).await?;
    let speed = query.optional_number("speed", 0..=i32::MAX.into())?;
    access::to_all(&*api.backend, Some(proto), operation, speed).await.map(data)
}

/// The id that connections know the `room` of a query by.
pub(super) fn room_id(query: &Query) -> Result<String, Status> {
    Ok(room_prefix(query)? + query.text("room")?)
}

/// What the ids of rooms of a query's `type` begin with. Rooms of goim v1, and those of numeric tokens, have no type:
/// where it is left out, a room is named by its whole id.
pub(super) fn room_prefix(query: &Query) -> Result<String, Status> {
    let kind = query.text_if_given("type")?;
    Ok(kind.map_or(String::new(), |kind| format!("{kind}://")))
}

/// What all four have in common.
struct Message {
    query: Query,
    operation: i32,
    proto: Proto,
}

/// Reads a request to the end of its body before looking at it, so that its answer always arrives.
async fn read<B>(api: &Api<B>, request: Request) -> Result<Message, Status> {
    let query = Query::read(request.uri().query());
    let body: Bytes = api.bodies.read(request).await?;
    let query = query?;
    let operation = query.number("operation", i32::MIN.into()..=i32::MAX.into())?;
    let collapse_id = query.text_if_given("collapse_id")?.unwrap_or_default().to_owned();
    let proto = Proto { ver: i32::from(VERSION), op: operation, seq: 0, body, collapse_id };
    Ok(Message { query, operation, proto })
}

/// The ledger, and where there are any the servers that the push did not reach.
fn data(pushed: Pushed) -> Value {
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
