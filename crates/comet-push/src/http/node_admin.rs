//! `/comet/node/*`: the orders of an operator to the server.

use std::sync::Arc;

use axum::extract::Request;
use comet_serve::Query;
use comet_wire::comet::v1::{Block, BlockReply, BlockReq, DrainReq, MoveOffReq, NodeStatus};
use serde_json::{Value, json};
use tonic::Status;

use crate::node_admin::NodeAdmin;

pub(super) async fn status<O: NodeAdmin>(admin: Arc<O>, _: Request) -> Result<Value, Status> {
    admin.status().await.map(described)
}

pub(super) async fn drain<O: NodeAdmin>(admin: Arc<O>, request: Request) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let order = DrainReq {
        delay_ms: given(&query, "delay_ms")?,
        per_second: given(&query, "per_second")?.unwrap_or(0),
        retry_after_ms: given(&query, "retry_after_ms")?,
        keep_clients: query.optional_choice("keep_clients", &["true", "false"])? == Some("true"),
    };
    admin.drain(order).await.map(described)
}

pub(super) async fn undrain<O: NodeAdmin>(admin: Arc<O>, _: Request) -> Result<Value, Status> {
    admin.undrain().await.map(described)
}

pub(super) async fn move_off<O: NodeAdmin>(
    admin: Arc<O>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let order = MoveOffReq {
        count: query.number("count", 1..=i64::MAX)?,
        per_second: query.number("per_second", 1..=i64::from(u32::MAX))?,
        retry_after_ms: given(&query, "retry_after_ms")?,
    };
    admin.move_off(order).await.map(described)
}

pub(super) async fn cancel_move_off<O: NodeAdmin>(
    admin: Arc<O>,
    _: Request,
) -> Result<Value, Status> {
    admin.cancel_move_off().await.map(described)
}

pub(super) async fn block<O: NodeAdmin>(admin: Arc<O>, request: Request) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let order = BlockReq {
        address: query.text("address")?.to_owned(),
        seconds: query.number("seconds", 1..=i64::from(u32::MAX))?,
        kick: query.optional_choice("kick", &["true", "false"])? == Some("true"),
    };
    let BlockReply { closed } = admin.block(order).await?;
    Ok(json!({ "closed": closed }))
}

pub(super) async fn unblock<O: NodeAdmin>(
    admin: Arc<O>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    admin.unblock(query.text("address")?)?;
    Ok(Value::Null)
}

pub(super) async fn blocks<O: NodeAdmin>(admin: Arc<O>, _: Request) -> Result<Value, Status> {
    let blocks = admin.blocks().into_iter();
    let blocks = blocks.map(|Block { address, seconds_left }| {
        json!({ "address": address, "seconds_left": seconds_left })
    });
    Ok(blocks.collect())
}

/// The number `name`; `None` if it is missing.
fn given(query: &Query, name: &str) -> Result<Option<u32>, Status> {
    let is_given = !query.optional_text(name)?.is_empty();
    let number = || query.number(name, 0..=i64::from(u32::MAX));
    is_given.then(number).transpose()
}

fn described(status: NodeStatus) -> Value {
    let NodeStatus { phase, connections, moving_off, per_second, delay_left_ms, keeps_clients } =
        status;
    json!({
        "phase": phase,
        "connections": connections,
        "moving_off": moving_off,
        "per_second": per_second,
        "delay_left_ms": delay_left_ms,
        "keeps_clients": keeps_clients,
    })
}
