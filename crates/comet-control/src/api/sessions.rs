//! `/comet/sessions/end`, in `comet logic` only: comet's own, the router's DelServer for operators.

use std::sync::Arc;

use axum::extract::Request;
use comet_serve::Query;
use serde_json::{Value, json};
use tonic::Status;

use super::Api;
use crate::reach::Reach;

/// Ends all sessions at a comet that is gone for good, without waiting until they expire. Clients that
/// are there after all come back with their next renewal.
pub(super) async fn end(api: Arc<Api>, request: Request) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let server = query.text("server")?;
    let ended = match &api.reach {
        Reach::Comets(comets) => comets.end_sessions(server).await?,
        Reach::Shards(_) => unreachable!("a comet has no such route"),
    };
    log::info!("{ended} sessions at comet {server:?} were ended by request");
    Ok(json!({ "ended": ended }))
}
