//! `/comet/sessions/end`: a call of comet's own, which gives operators the store's `del_server`.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::routing::MethodFilter;
use comet_serve::{CallCounts, Query};
use serde_json::{Value, json};
use tonic::Status;

use crate::comets::Comets;

/// The route, which belongs to the HTTP API.
pub(crate) fn route(comets: &Arc<Comets>, counts: &Arc<CallCounts>) -> Router {
    comet_push::call(MethodFilter::POST, "/comet/sessions/end", counts, comets, end)
}

/// Ends all sessions at a comet that does not come back, before they expire. Clients that are still connected return
/// with their next renewal.
async fn end(comets: Arc<Comets>, request: Request) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let server = query.text("server")?;
    let ended = comets.end_sessions(server).await?;
    log::info!("{ended} sessions at comet {server:?} were ended by request");
    Ok(json!({ "ended": ended }))
}
