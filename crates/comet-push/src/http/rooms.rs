//! `/comet/rooms/*`: connections enter and leave rooms. `rooms` is a list of whole room ids.

use std::sync::Arc;

use axum::extract::Request;
use comet_serve::Query;
use comet_wire::comet::v1::ChangeRoomsReply;
use serde_json::{Value, json};
use tonic::Status;

use crate::access;
use crate::backend::{ChangeTarget, RoomChange, StreamBackend};

pub(super) async fn join_keys<B: StreamBackend>(
    backend: Arc<B>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    change(&*backend, keys(&query)?, &query, true).await
}

pub(super) async fn join_mids<B: StreamBackend>(
    backend: Arc<B>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    change(&*backend, ChangeTarget::Users(query.numbers("mids")?), &query, true).await
}

pub(super) async fn leave_keys<B: StreamBackend>(
    backend: Arc<B>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    change(&*backend, keys(&query)?, &query, false).await
}

pub(super) async fn leave_mids<B: StreamBackend>(
    backend: Arc<B>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    change(&*backend, ChangeTarget::Users(query.numbers("mids")?), &query, false).await
}

fn keys(query: &Query) -> Result<ChangeTarget, Status> {
    Ok(ChangeTarget::Keys(query.list("keys")?.into_iter().map(str::to_owned).collect()))
}

async fn change<B: StreamBackend>(
    backend: &B,
    target: ChangeTarget,
    query: &Query,
    is_join: bool,
) -> Result<Value, Status> {
    let rooms = query.list("rooms")?.into_iter().map(str::to_owned).collect();
    let change = RoomChange { target, rooms, is_join };
    let ChangeRoomsReply { changed, unchanged, refused, absent, not_reached, unanswered } =
        access::change_rooms(backend, change).await?;
    let mut data = json!({
        "changed": changed,
        "unchanged": unchanged,
        "refused": refused,
        "absent": absent,
        "not_reached": not_reached,
    });
    if !unanswered.is_empty() {
        data["unanswered"] = unanswered.into();
    }
    Ok(data)
}
