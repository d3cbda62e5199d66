//! Pages of the members of a room: lists of connections, of which callers are told less.

use comet_core::limits::LISTED_MAX;
use comet_serve::Query;
use comet_wire::comet::v1::{Connection, ConnectionsReply, ConnectionsReq};
use comet_wire::comet::v1::{Member, MembersReply, MembersReq};
use serde_json::{Value, json};
use tonic::Status;

/// The list that has the page. By age, because no member that stays is left out then.
pub(crate) fn connections(request: MembersReq) -> Result<ConnectionsReq, Status> {
    let MembersReq { room, limit, cursor } = request;
    if room.is_empty() {
        return Err(Status::invalid_argument("room is empty: name the room"));
    }
    let limit = if limit == 0 { LISTED_MAX as u32 } else { limit };
    Ok(ConnectionsReq { room, sort: "age".to_owned(), limit, cursor, ..ConnectionsReq::default() })
}

pub(crate) fn reply(list: ConnectionsReply) -> MembersReply {
    let ConnectionsReply { connections, matched: count, next } = list;
    let member = |Connection { key, mid, age_seconds: connected_seconds, .. }| Member {
        key,
        mid,
        connected_seconds,
    };
    MembersReply { members: connections.into_iter().map(member).collect(), count, next }
}

/// The request of a query string.
pub(crate) fn request(query: &Query) -> Result<MembersReq, Status> {
    Ok(MembersReq {
        room: query.text("room")?.to_owned(),
        limit: query.optional_number("limit", 1..=LISTED_MAX as i64)?,
        cursor: query.optional_text("cursor")?.to_owned(),
    })
}

pub(crate) fn json(reply: &MembersReply) -> Value {
    let MembersReply { members, count, next } = reply;
    let member = |Member { key, mid, connected_seconds }: &Member| json!({ "key": key, "mid": mid, "connected_seconds": connected_seconds });
    let members: Vec<Value> = members.iter().map(member).collect();
    let next = (!next.is_empty()).then_some(next);
    json!({ "count": count, "next": next, "members": members })
}
