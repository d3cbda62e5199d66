//! Pages of the history of a room.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comet_core::limits::HISTORY_PAGE_PUSHES_MAX;
use comet_core::{HistoryPage, HistoryQuery};
use comet_serve::Query;
use comet_wire::comet::v1::{HistoryEntry, HistoryReply, HistoryReq};
use serde_json::{Value, json};
use tonic::Status;

/// Pushes on a page if the request names no limit.
const LIMIT: u32 = 100;

/// The query to the shard.
pub(crate) fn query(request: HistoryReq) -> Result<HistoryQuery, Status> {
    let HistoryReq { room, before, limit } = request;
    if room.is_empty() {
        return Err(Status::invalid_argument("room is empty: name the room"));
    }
    let limit = match limit {
        0 => LIMIT,
        1..=HISTORY_PAGE_PUSHES_MAX => limit,
        _ => {
            let message = format!("limit: {limit} is more than {HISTORY_PAGE_PUSHES_MAX}");
            return Err(Status::invalid_argument(message));
        }
    };
    Ok(HistoryQuery { room: room.into(), before: (before > 0).then_some(before), limit })
}

pub(crate) fn reply(page: &HistoryPage, query: &HistoryQuery) -> HistoryReply {
    let entries = page.entries(query);
    let oldest = entries.last().map(|entry| entry.offset);
    let next = oldest.filter(|&offset| page.oldest.is_some_and(|kept| kept < offset));
    let entry = |entry: comet_core::HistoryEntry<'_>| HistoryEntry {
        offset: entry.offset,
        operation: entry.operation,
        body: entry.body.to_owned(),
        age_ms: entry.age_ms,
    };
    HistoryReply {
        epoch: page.position.map(|position| position.epoch),
        offset: page.position.map_or(0, |position| position.offset),
        entries: entries.into_iter().map(entry).collect(),
        next: next.unwrap_or(0),
    }
}

pub(crate) fn no_rule(room: &str) -> Status {
    Status::failed_precondition(format!(
        "room {room:?} keeps no history: no [[history]] rule covers it"
    ))
}

/// The request of a query string.
pub(crate) fn request(query: &Query) -> Result<HistoryReq, Status> {
    Ok(HistoryReq {
        room: query.text("room")?.to_owned(),
        before: query.optional_number("before", 1..=i64::MAX)?,
        limit: query.optional_number("limit", 1..=HISTORY_PAGE_PUSHES_MAX.into())?,
    })
}

/// The reply as JSON. The epoch is in hexadecimal digits, because JavaScript cannot represent all numbers of 64 bits.
pub(crate) fn json(reply: &HistoryReply) -> Value {
    let HistoryReply { epoch, offset, entries, next } = reply;
    let entry = |HistoryEntry { offset, operation, body, age_ms }: &HistoryEntry| {
        let mut value = json!({ "offset": offset, "operation": operation, "age_ms": age_ms });
        match str::from_utf8(body) {
            Ok(text) => value["body"] = text.into(),
            Err(_) => value["body_base64"] = STANDARD.encode(body).into(),
        }
        value
    };
    let entries: Vec<Value> = entries.iter().map(entry).collect();
    let epoch = epoch.map(|epoch| format!("{epoch:016x}"));
    let next = (*next > 0).then_some(next);
    json!({ "epoch": epoch, "offset": offset, "next": next, "entries": entries })
}
