//! `/comet/broadcasts`: lists and cancels paced broadcasts.

use std::sync::Arc;

use axum::extract::Request;
use comet_serve::Query;
use serde_json::{Value, json};
use tonic::Status;

use crate::backend::StreamBackend;
use crate::http::push::ledger;

/// All of them, the oldest first.
pub(super) async fn list<B: StreamBackend>(backend: Arc<B>, _: Request) -> Result<Value, Status> {
    let broadcasts = backend.broadcasts().into_iter().map(|broadcast| {
        let mut listed = json!({
            "id": broadcast.id,
            "operation": broadcast.operation,
            "speed": broadcast.speed,
            "since_seconds": broadcast.since.as_secs_f64(),
        });
        if let Some(name) = &broadcast.name {
            listed["name"] = (&**name).into();
        }
        listed
    });
    Ok(broadcasts.collect())
}

/// Ends the broadcast with the number `id`.
pub(super) async fn cancel<B: StreamBackend>(
    backend: Arc<B>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let id = query.number("id", 1..=i64::MAX)?;
    backend.cancel_broadcast(id).await.map(ledger)
}
