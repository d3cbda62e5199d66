//! `/goim/online/*`: who is online. Rooms are as full as their homes know, which hear of other cores'
//! members up to about 0.4 s later.

use std::sync::Arc;

use axum::extract::Request;
use comet_serve::Query;
use serde_json::{Map, Value, json};
use tonic::Status;

use super::Api;
use super::push::room_id;

/// Rooms in one answer of [`top`].
const TOP_MAX: usize = 10_000;

/// The fullest rooms of a type, by their name within it.
pub(super) async fn top(api: Arc<Api>, request: Request) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let prefix = room_id(query.text("type")?, "");
    let limit = query.number("limit", 1..=TOP_MAX as i64)?;
    let rooms = api.reach.rooms().await?;
    let of_type =
        rooms.iter().filter_map(|(id, online)| Some((id.strip_prefix(&*prefix)?, *online)));
    let rooms = fullest(of_type.collect(), limit);
    Ok(rooms.into_iter().map(|(id, online)| json!({ "room_id": id, "count": online })).collect())
}

/// How many are online in each of some rooms of a type; an empty one has 0.
pub(super) async fn room(api: Arc<Api>, request: Request) -> Result<Value, Status> {
    let query = Query::read(request.uri().query())?;
    let (kind, names) = (query.text("type")?, query.list("rooms")?);
    api.reach.bounds().check_count("room", names.len())?;
    let mut counts: Map<String, Value> =
        names.into_iter().map(|name| (name.to_owned(), 0.into())).collect();
    let prefix = room_id(kind, "");
    for (id, online) in api.reach.rooms().await? {
        if let Some(count) = id.strip_prefix(&*prefix).and_then(|name| counts.get_mut(name)) {
            *count = online.into();
        }
    }
    Ok(counts.into())
}

/// Connections that are authenticated. `ip_count`, in goim the distinct addresses they come from, is
/// null: comet keeps no address of a connection.
pub(super) async fn total(api: Arc<Api>, _: Request) -> Result<Value, Status> {
    Ok(json!({ "conn_count": api.reach.live().await?, "ip_count": null }))
}

/// The first `limit` of `rooms`, the fullest first; of equal ones the one whose name comes first.
pub(crate) fn fullest(mut rooms: Vec<(&str, u32)>, limit: usize) -> Vec<(&str, u32)> {
    let order = |one: &(&str, u32), other: &(&str, u32)| {
        other.1.cmp(&one.1).then_with(|| one.0.cmp(other.0))
    };
    if rooms.len() > limit {
        // Sorts only what is kept: there may be a million rooms.
        rooms.select_nth_unstable_by(limit - 1, order);
        rooms.truncate(limit);
    }
    rooms.sort_unstable_by(order);
    rooms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_rooms_come_first() {
        let rooms = vec![("d", 1), ("a", 7), ("e", 9), ("c", 7), ("b", 7)];
        let check = |limit, expected: &[&str]| {
            let found = fullest(rooms.clone(), limit);
            assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), expected, "{limit}");
        };
        check(1, &["e"]);
        check(3, &["e", "a", "b"]);
        check(5, &["e", "a", "b", "c", "d"]);
        check(9, &["e", "a", "b", "c", "d"]);
        assert_eq!(fullest(Vec::new(), 1), []);
    }
}
