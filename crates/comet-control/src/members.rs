//! Pages of the members of a room, made from lists of connections. Callers and other hosts get fewer fields.

use comet_core::ListedConn;
use comet_core::limits::LISTED_MAX;
use comet_hub::cluster::{HostMember, MembersCursor, Page};
use comet_serve::Query;
use comet_wire::comet::v1::{Connection, ConnectionsReply, ConnectionsReq};
use comet_wire::comet::v1::{Member, MembersReply, MembersReq};
use serde_json::{Value, json};
use tonic::Status;

use crate::room_lists::{PAGE_BYTES, json_bytes};

/// The list for the page. It is ordered by age, so no member that stays is left out.
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

/// The part of a list for another host: as many members as [`PAGE_BYTES`] of JSON hold, and how many there are on all
/// pages.
pub(crate) fn told((listed, count, mut is_cut): (Vec<ListedConn>, u64, bool)) -> (Page, u64) {
    let (mut members, mut bytes) = (Vec::with_capacity(listed.len()), 0);
    for ListedConn { place, key, user, age_ms, .. } in listed {
        let place: Box<str> = place.to_string().into();
        // Includes the two numbers.
        bytes += json_bytes(&place) + json_bytes(&key) + 48;
        if bytes > PAGE_BYTES {
            is_cut = true;
            break;
        }
        members.push(HostMember { place, key, user, connected_seconds: age_ms / 1_000 });
    }
    (Page::Members { members, is_cut }, count)
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

#[cfg(test)]
mod tests {
    use comet_core::{OperationFilter, Transport};

    use super::*;

    #[test]
    fn a_page_for_another_host_is_bounded_by_its_json() {
        let listed = |at: u32| ListedConn {
            place: format!("{at}.0.{at}.0").parse().unwrap(),
            key: "\u{1}".repeat(256).into(),
            user: i64::MIN,
            room: None,
            further_rooms: 0,
            address: None,
            transport: Transport::Tcp,
            is_tls: false,
            age_ms: u64::MAX,
            waiting_bytes: 0,
            waiting_frames: 0,
            bytes_per_second: 0,
            accepts: OperationFilter::default(),
            state: "live",
        };
        let (page, count) = told(((1..=1_000).map(listed).collect(), 1_000, false));
        let Page::Members { members, is_cut } = page else { panic!("{page:?}") };
        let rows: Vec<Value> = members
            .iter()
            .map(|it| json!([&*it.place, &*it.key, it.user, it.connected_seconds]))
            .collect();
        let bytes = json!(rows).to_string().len();
        assert!(bytes <= PAGE_BYTES && bytes > PAGE_BYTES / 2, "{bytes}");
        assert_eq!((count, is_cut), (1_000, true));

        let (page, _) = told(((1..=9).map(listed).collect(), 9, false));
        assert!(matches!(page, Page::Members { members, is_cut: false } if members.len() == 9));
    }
}
