//! Pages of the members of a room: lists of connections, of which callers and other hosts are told less.

use comet_core::ListedConn;
use comet_core::limits::LISTED_MAX;
use comet_hub::cluster::{HostMember, MembersCursor, Page};
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
        host: String::new(),
    };
    let members = connections.into_iter().map(member).collect();
    MembersReply { members, count, next, unanswered: Vec::new() }
}

/// What another host is told of a list: the members, and how many there are on all pages.
pub(crate) fn told((listed, count, is_cut): (Vec<ListedConn>, u64, bool)) -> (Page, u64) {
    let member = |listed: ListedConn| HostMember {
        place: listed.place.to_string().into(),
        key: listed.key,
        user: listed.user,
        connected_seconds: listed.age_ms / 1_000,
    };
    (Page::Members { members: listed.into_iter().map(member).collect(), is_cut }, count)
}

/// The cursor of a page of several hosts: a place, and the host whose list it is in.
pub(crate) fn cursor(text: &str) -> Result<Option<MembersCursor>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let (place, host) = text.split_once('@').ok_or_else(|| {
        Status::invalid_argument(format!("cursor: {text:?} is none of a page of members"))
    })?;
    Ok(Some(MembersCursor { host: host.into(), place: place.into() }))
}

pub(crate) fn cursor_text(MembersCursor { host, place }: &MembersCursor) -> String {
    format!("{place}@{host}")
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
    let MembersReply { members, count, next, unanswered } = reply;
    let member = |Member { key, mid, connected_seconds, host }: &Member| {
        let mut member = json!({ "key": key, "mid": mid, "connected_seconds": connected_seconds });
        if !host.is_empty() {
            member["host"] = json!(host);
        }
        member
    };
    let members: Vec<Value> = members.iter().map(member).collect();
    let next = (!next.is_empty()).then_some(next);
    let mut json = json!({ "count": count, "next": next, "members": members });
    if !unanswered.is_empty() {
        json["unanswered"] = json!(unanswered);
    }
    json
}
