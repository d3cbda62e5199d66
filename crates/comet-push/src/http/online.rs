//! `/goim/online/*`: who is online. Room counts come from the homes, which learn of members on other cores with a delay
//! of up to about 0.4 s.

use std::sync::Arc;

use axum::extract::Request;
use comet_serve::Query;
use serde_json::{Map, Value, json};
use tonic::Status;

use crate::backend::{Clients, OfAllHosts, PushBackend};
use crate::http::push::{Api, room_prefix};
use crate::rooms::fullest;

/// Most rooms in one answer of [`top`].
const TOP_MAX: usize = 10_000;

/// The rooms of a type with the most members, by their name within it. Without a type: of all rooms, by their ids.
pub(super) async fn top<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<OfAllHosts<Value>, Status> {
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

/// The number of members online in each of some rooms of a type; 0 for an empty one.
pub(super) async fn room<B: PushBackend>(
    api: Arc<Api<B>>,
    request: Request,
) -> Result<OfAllHosts<Value>, Status> {
    let query = Query::read(request.uri().query())?;
    let (prefix, names) = (room_prefix(&query)?, query.list("rooms")?);
    api.backend.bounds().check_count("room", names.len())?;
    let rooms = names.iter().map(|name| format!("{prefix}{name}")).collect();
    let OfAllHosts { value: members, unanswered } = api.backend.members_of(rooms).await?;
    let counts = names.into_iter().map(str::to_owned).zip(members.into_iter().map(Value::from));
    Ok(OfAllHosts { value: counts.collect::<Map<_, _>>().into(), unanswered })
}

/// Authenticated connections, and the number of addresses they come from. The latter is 0 if addresses are not counted,
/// because a client of goim expects a number. An address with clients on several hosts counts once for each.
pub(super) async fn total<B: PushBackend>(
    api: Arc<Api<B>>,
    _: Request,
) -> Result<OfAllHosts<Value>, Status> {
    let OfAllHosts { value: Clients { live, addresses }, unanswered } =
        api.backend.clients().await?;
    Ok(OfAllHosts { value: json!({ "conn_count": live, "ip_count": addresses }), unanswered })
}
