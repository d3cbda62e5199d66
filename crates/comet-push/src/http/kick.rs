//! `/comet/kick/*`: closes connections.

use std::sync::Arc;

use axum::extract::Request;
use comet_serve::Query;
use comet_wire::goim::comet::Ledger;
use serde_json::{Value, json};
use tonic::Status;

use crate::access;
use crate::backend::{KickNotice, KickTarget, StreamBackend};
use crate::http::push::room_id;

/// Closes the connections that hold `keys`.
pub(super) async fn keys<B: StreamBackend>(
    backend: Arc<B>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let keys = query.list("keys")?.into_iter().map(str::to_owned).collect();
    kick(&*backend, KickTarget::Keys(keys), &query).await
}

/// Closes every session of the users `mids`.
pub(super) async fn mids<B: StreamBackend>(
    backend: Arc<B>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let users = query.numbers("mids")?;
    kick(&*backend, KickTarget::Users(users), &query).await
}

/// Closes the members of `room`, with or without a `type`.
pub(super) async fn room<B: StreamBackend>(
    backend: Arc<B>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let room = room_id(&query)?;
    kick(&*backend, KickTarget::Room(room), &query).await
}

/// Closes the connections from `address`, which may be a network.
pub(super) async fn address<B: StreamBackend>(
    backend: Arc<B>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let address = query.text("address")?.to_owned();
    kick(&*backend, KickTarget::Address(address), &query).await
}

async fn kick<B: StreamBackend>(
    backend: &B,
    target: KickTarget,
    query: &Query,
) -> Result<Value, Status> {
    let reason = query.optional_text("reason")?.to_owned();
    let retry_after_ms = query.optional_number("retry_after_ms", 0..=i64::from(u32::MAX))?;
    let notice = KickNotice { reason, retry_after_ms };
    let ledger = access::kick(backend, target, notice).await?;
    let Ledger { queued, absent, parked, dropped, unanswered, .. } = ledger;
    let mut data = json!({ "closed": queued, "absent": absent, "not_closed": dropped });
    if parked > 0 {
        data["parked"] = parked.into();
    }
    if !unanswered.is_empty() {
        data["unanswered"] = unanswered.into();
    }
    Ok(data)
}
