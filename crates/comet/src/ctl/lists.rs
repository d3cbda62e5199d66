//! Lists of members and rooms, over all hosts: where the list continues, then a line for each entry.

use comet_wire::comet::v1::inspect_client::InspectClient;
use comet_wire::comet::v1::{Member, MembersReply, MembersReq};
use comet_wire::goim::comet::comet_client::CometClient;
use comet_wire::goim::comet::{RoomMembers, RoomsReply, RoomsReq};
use serde_json::{Value, json};

use crate::blocking_client::{PushClient, PushError};

/// The fields of an answer by name, in the order in which they are printed.
pub(super) type Record = Vec<(&'static str, Value)>;

pub(super) fn members(
    client: &PushClient,
    room: &str,
    cursor: &str,
    limit: u32,
) -> Result<Vec<Record>, PushError> {
    let request = MembersReq { room: room.to_owned(), limit, cursor: cursor.to_owned() };
    let reply = client.ask(request, async |channel, request| {
        InspectClient::new(channel).members(request).await
    })?;
    let MembersReply { members, count, next, unanswered: silent } = reply;
    let mut head = vec![("count", count.into()), ("next", json!(present(&next)))];
    head.extend(unanswered(&silent));
    let member = |Member { key, mid, connected_seconds, host }: Member| {
        let mut record = vec![
            ("key", key.into()),
            ("mid", mid.into()),
            ("connected_seconds", connected_seconds.into()),
        ];
        record.extend(present(&host).map(|host| ("host", host.into())));
        record
    };
    Ok([head].into_iter().chain(members.into_iter().map(member)).collect())
}

pub(super) fn rooms(
    client: &PushClient,
    prefix: &str,
    after: &str,
    limit: u32,
) -> Result<Vec<Record>, PushError> {
    let request = RoomsReq { limit, after: after.to_owned(), prefix: prefix.to_owned() };
    let reply = client
        .ask(request, async |channel, request| CometClient::new(channel).rooms(request).await)?;
    let RoomsReply { members, next, unanswered: silent, .. } = reply;
    let mut head = vec![("next", json!(present(&next)))];
    head.extend(unanswered(&silent));
    let room = |RoomMembers { room, members }: RoomMembers| {
        vec![("room", room.into()), ("members", members.into())]
    };
    Ok([head].into_iter().chain(members.into_iter().map(room)).collect())
}

/// The hosts that did not answer; `None`: all did.
pub(super) fn unanswered(hosts: &[String]) -> Option<(&'static str, Value)> {
    (!hosts.is_empty()).then(|| ("unanswered", json!(hosts)))
}

fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
