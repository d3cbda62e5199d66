//! Events of live traces as named fields.

use comet_wire::comet::v1::TraceEvent;
use serde_json::Value;

/// The known fields of an event by their names in JSON, in the order in which they are shown.
pub fn trace_fields(event: TraceEvent) -> Vec<(&'static str, Value)> {
    let TraceEvent { at_ms, connection, key, user, what, operation, sequence, bytes, .. } = event;
    let mut record = vec![
        ("at_ms", at_ms.into()),
        ("connection", connection.into()),
        ("key", key.into()),
        ("user", user.into()),
        ("what", what.clone().into()),
    ];
    if matches!(&*what, "read" | "wrote" | "queued" | "dropped") {
        record.push(("operation", operation.into()));
    }
    if matches!(&*what, "read" | "wrote") {
        record.push(("sequence", sequence.into()));
    }
    let TraceEvent { superseded, room_id, address, reason, .. } = event;
    let numbers = [("bytes", bytes), ("superseded", superseded)];
    record.extend(numbers.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name, n.into())));
    let texts = [("room", room_id), ("address", address), ("reason", reason)];
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    record.extend(texts.map(|(name, text)| (name, text.into())));
    record
}
