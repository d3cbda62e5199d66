//! `/goim/online/*`: who is online. Room counts are those of the homes, which learn the members of
//! other cores up to about 0.4 s late.

use std::sync::Arc;

use axum::extract::Request;
use comet_serve::Query;
use serde_json::{Map, Value, json};
use tonic::Status;

use crate::backend::{Clients, PushBackend};
use crate::http::push::{Api, room_prefix};
use crate::rooms::fullest;

/// Rooms in one answer of [`top`].
const TOP_MAX: usize = 10_000;

/// The fullest rooms of a type, by their name within it. Without a type: of all rooms, by their ids.
pub(super) async fn top<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let prefix = room_prefix(&query)?;
    let limit = query.number("limit", 1..=TOP_MAX as i64)?;
    let top = api.backend.rooms(move |rooms| {
        let of_type =
            rooms.iter().filter_map(|(id, online)| Some((id.strip_prefix(&*prefix)?, *online)));
        let rooms = fullest(of_type.collect(), limit).into_iter();
        rooms.map(|(id, online)| json!({ "room_id": id, "count": online })).collect()
    });
    top.await
}

/// How many are online in each of some rooms of a type; an empty one has 0.
pub(super) async fn room<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let (prefix, names) = (room_prefix(&query)?, query.list("rooms")?);
    api.backend.bounds().check_count("room", names.len())?;
    let mut counts: Map<String, Value> =
        names.into_iter().map(|name| (name.to_owned(), 0.into())).collect();
    let counted = api.backend.rooms(move |rooms| {
        for (id, online) in rooms {
            if let Some(count) = id.strip_prefix(&*prefix).and_then(|name| counts.get_mut(name)) {
                *count = online.into();
            }
        }
        counts.into()
    });
    counted.await
}

/// Connections that are authenticated, and the addresses they come from. These are 0 where they are not counted: a
/// client of goim reads numbers.
pub(super) async fn total<B: PushBackend>(api: Arc<Api<B>>, _: Request) -> Result<Value, Status> {
    let Clients { live, addresses } = api.backend.clients().await?;
    Ok(json!({ "conn_count": live, "ip_count": addresses }))
}
