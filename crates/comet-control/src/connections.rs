//! Lists of connections: a request becomes a query to the shards, and their pages become one reply.

use comet_core::limits::LISTED_MAX;
use comet_core::{
    ConnFilter, ConnOrder, ConnPage, ConnQuery, ListedConn, OperationFilter, Transport,
};
use comet_serve::Query;
use comet_wire::comet::v1::{Connection, ConnectionsReply, ConnectionsReq};
use serde_json::{Value, json};
use tonic::Status;

/// Connections in an answer if the request names no limit.
const LIMIT: u32 = 100;

const TRANSPORTS: [&str; 3] = ["tcp", "websocket", "sse"];
const ORDERS: [&str; 3] = ["waiting", "age", "rate"];

/// The query of a request.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn query(request: &ConnectionsReq) -> Result<ConnQuery, Status> {
    let ConnectionsReq { key, mid, room, address, transport, tls, sort, limit, cursor } = request;
    let wrong = |name: &str, what: String| Status::invalid_argument(format!("{name}: {what}"));
    let choose = |name: &str, text: &str, among: &[&str]| match text {
        "" => Ok(None),
        text => among
            .iter()
            .position(|choice| *choice == text)
            .map(Some)
            .ok_or_else(|| wrong(name, format!("{text:?} is none of {}", among.join(", ")))),
    };
    let named = |text: &str| (!text.is_empty()).then(|| text.into());
    let limit = if *limit == 0 { LIMIT } else { *limit } as usize;
    if limit > LISTED_MAX {
        return Err(wrong("limit", format!("{limit} is more than {LISTED_MAX}")));
    }
    let network = named(address).map(|text: Box<str>| text.parse()).transpose();
    let after = named(cursor).map(|text: Box<str>| text.parse()).transpose();
    let transports = [Transport::Tcp, Transport::WebSocket, Transport::EventStream];
    let orders = [ConnOrder::Waiting, ConnOrder::Age, ConnOrder::Rate];
    Ok(ConnQuery {
        filter: ConnFilter {
            key: named(key),
            user: *mid,
            room: named(room),
            network: network.map_err(|what| wrong("address", what))?,
            transport: choose("transport", transport, &TRANSPORTS)?.map(|at| transports[at]),
            is_tls: *tls,
        },
        order: choose("sort", sort, &ORDERS)?.map_or(ConnOrder::Waiting, |at| orders[at]),
        limit,
        after: after.map_err(|what| wrong("cursor", what))?,
    })
}

/// Merges the pages of all shards into one page, with the number of all connections that match the filter. `true`:
/// there are more pages.
pub(crate) fn merge(pages: Vec<ConnPage>, limit: usize) -> (Vec<ListedConn>, u64, bool) {
    let matched = pages.iter().map(|page| page.matched).sum();
    let is_cut = pages.iter().any(|page| page.listed.len() >= limit);
    let mut listed: Vec<ListedConn> = pages.into_iter().flat_map(|page| page.listed).collect();
    listed.sort_unstable();
    let has_more = is_cut || listed.len() > limit;
    listed.truncate(limit);
    (listed, matched, has_more)
}

/// As [`merge`], as a message of the wire.
pub(crate) fn reply(pages: Vec<ConnPage>, limit: usize) -> ConnectionsReply {
    let (listed, matched, has_more) = merge(pages, limit);
    let next = listed.last().filter(|_| has_more).map(|last| last.place.to_string());
    ConnectionsReply {
        connections: listed.into_iter().map(connection).collect(),
        matched,
        next: next.unwrap_or_default(),
    }
}

/// `listed` as a message of the wire.
pub(crate) fn connection(listed: ListedConn) -> Connection {
    let conn = listed.place.conn;
    let (accepts, operations) = match listed.accepts {
        OperationFilter::All => ("all", Vec::new()),
        OperationFilter::Only(operations) => ("only", operations.into_vec()),
        OperationFilter::AllBut(operations) => ("all_but", operations.into_vec()),
    };
    Connection {
        id: format!("{}/{}.{}", conn.shard.0, conn.slot, conn.generation),
        core: conn.shard.0.into(),
        key: listed.key.into(),
        mid: listed.user,
        room: listed.room.as_deref().unwrap_or_default().to_owned(),
        address: listed.address.map(|address| address.to_string()).unwrap_or_default(),
        transport: TRANSPORTS[listed.transport as usize].to_owned(),
        tls: listed.is_tls,
        age_seconds: listed.age_ms / 1_000,
        waiting_bytes: listed.waiting_bytes,
        waiting_frames: listed.waiting_frames,
        accepts: accepts.to_owned(),
        operations,
        state: listed.state.to_owned(),
        bytes_per_second: listed.bytes_per_second,
        further_rooms: listed.further_rooms as u32,
    }
}

/// The request of a query string.
pub(crate) fn request(query: &Query) -> Result<ConnectionsReq, Status> {
    let text = |name| query.optional_text(name).map(str::to_owned);
    let mid = match query.optional_text("mid")? {
        "" => None,
        _ => Some(query.number("mid", i64::MIN..=i64::MAX)?),
    };
    let tls = query.optional_choice("tls", &["true", "false"])?.map(|choice| choice == "true");
    Ok(ConnectionsReq {
        key: text("key")?,
        mid,
        room: text("room")?,
        address: text("address")?,
        transport: text("transport")?,
        tls,
        sort: text("sort")?,
        limit: query.optional_number("limit", 1..=LISTED_MAX as i64)?,
        cursor: text("cursor")?,
    })
}

/// The reply as JSON. Texts that are empty in the message become null.
pub(crate) fn json(reply: &ConnectionsReply) -> Value {
    let ConnectionsReply { connections, matched, next } = reply;
    let connections: Vec<Value> = connections.iter().map(connection_json).collect();
    json!({ "matched": matched, "next": text(next), "connections": connections })
}

pub(crate) fn connection_json(connection: &Connection) -> Value {
    json!({
        "id": connection.id,
        "core": connection.core,
        "key": text(&connection.key),
        "mid": connection.mid,
        "room": text(&connection.room),
        "further_rooms": connection.further_rooms,
        "address": text(&connection.address),
        "transport": connection.transport,
        "tls": connection.tls,
        "age_seconds": connection.age_seconds,
        "waiting_bytes": connection.waiting_bytes,
        "waiting_frames": connection.waiting_frames,
        "bytes_per_second": connection.bytes_per_second,
        "accepts": connection.accepts,
        "operations": connection.operations,
        "state": connection.state,
    })
}

pub(crate) fn text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
