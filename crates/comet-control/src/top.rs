//! The busiest rooms and the slowest and busiest clients: the top lists of all shards merged into one.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use comet_core::{ListedConn, SlowClient, Top};
use comet_wire::comet::v1::{self as wire, RoomTraffic, TopReply};
use serde_json::{Value, json};
use tonic::Status;

use crate::connections::{connection, connection_json};

/// Entries of a list if the request names no limit.
const LIMIT: u32 = 10;

/// Most entries of a list: as many as a shard has.
pub(crate) const LIMIT_MAX: u32 = 64;

/// The number of entries requested.
pub(crate) fn limit(limit: u32) -> Result<usize, Status> {
    match limit {
        0 => Ok(LIMIT as usize),
        1..=LIMIT_MAX => Ok(limit as usize),
        _ => Err(Status::invalid_argument(format!("limit: {limit} is more than {LIMIT_MAX}"))),
    }
}

/// The first `limit` entries of the lists of all shards. A room may be in several of them.
pub(crate) fn reply(tops: Vec<Top>, limit: usize) -> TopReply {
    let span_ms = tops.iter().map(|top| top.span_ms).max().unwrap_or_default();
    let mut deliveries: HashMap<Arc<str>, u64> = HashMap::new();
    let mut clients: Vec<SlowClient> = Vec::new();
    let mut busiest: Vec<ListedConn> = Vec::new();
    for top in tops {
        for (room, count) in top.rooms {
            *deliveries.entry(room).or_default() += count;
        }
        clients.extend(top.clients);
        busiest.extend(top.busiest);
    }
    let mut rooms: Vec<(Arc<str>, u64)> = deliveries.into_iter().collect();
    rooms.sort_unstable_by(|one, other| (other.1, &one.0).cmp(&(one.1, &other.0)));
    rooms.truncate(limit);
    clients.sort_by_key(|client| Reverse(client.late_bytes));
    clients.truncate(limit);
    busiest.sort_unstable();
    busiest.truncate(limit);
    let room = |(room, deliveries): (Arc<str>, u64)| RoomTraffic {
        room: room.as_ref().to_owned(),
        deliveries,
    };
    let client = |SlowClient { conn, late_bytes }| wire::SlowClient {
        connection: Some(connection(conn)),
        late_bytes,
    };
    TopReply {
        span_ms,
        rooms: rooms.into_iter().map(room).collect(),
        clients: clients.into_iter().map(client).collect(),
        busiest: busiest.into_iter().map(connection).collect(),
    }
}

/// The reply as JSON; a client has its connection and its late bytes.
pub(crate) fn json(reply: &TopReply) -> Value {
    let room = |room: &RoomTraffic| json!({ "room": room.room, "deliveries": room.deliveries });
    let client = |client: &wire::SlowClient| {
        let mut value = client.connection.as_ref().map(connection_json).unwrap_or_default();
        value["late_bytes"] = client.late_bytes.into();
        value
    };
    json!({
        "span_ms": reply.span_ms,
        "rooms": reply.rooms.iter().map(room).collect::<Vec<_>>(),
        "clients": reply.clients.iter().map(client).collect::<Vec<_>>(),
        "busiest": reply.busiest.iter().map(connection_json).collect::<Vec<_>>(),
    })
}
