//! Paced broadcasts as JSON beside the states of the former process's shards.

use std::time::Duration;

use comet_control::PacedMove;
use comet_core::{CallId, DropReason, Tally};
use serde_json::{Map, Value, json};

pub(super) fn to_json(paced: &PacedMove) -> Value {
    let PacedMove { call, operation, speed, name, age, tally } = paced;
    // Broadcasts name no keys or rooms.
    let Tally { matched: _, queued, dropped, absent: _, parked: _, unchanged: _, refused: _ } =
        tally;
    let counts = DropReason::ALL.iter().zip(dropped);
    let dropped: Map<_, _> =
        counts.map(|(reason, count)| (reason.label().to_owned(), json!(count))).collect();
    json!({
        "call": call.0,
        "operation": operation,
        "speed": speed,
        "name": name.as_deref(),
        "age_ms": u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        "queued": queued,
        "dropped": dropped,
    })
}

/// `None`: it is not a paced broadcast.
pub(super) fn from_json(paced: &Value) -> Option<PacedMove> {
    let number = |name: &str| paced.get(name).and_then(Value::as_u64);
    let mut tally = Tally::default();
    tally.queued = number("queued").unwrap_or(0);
    tally.matched = tally.queued;
    for (reason, count) in DropReason::ALL.iter().zip(&mut tally.dropped) {
        let dropped = paced.get("dropped").and_then(|all| all.get(reason.label()));
        *count = dropped.and_then(Value::as_u64).unwrap_or(0);
        tally.matched = tally.matched.saturating_add(*count);
    }
    Some(PacedMove {
        call: CallId(number("call")?),
        operation: paced.get("operation")?.as_i64()?.try_into().ok()?,
        speed: number("speed")?.try_into().ok()?,
        // Missing in older releases, whose broadcasts run only on their own host.
        name: paced.get("name").and_then(Value::as_str).map(Into::into),
        age: Duration::from_millis(number("age_ms").unwrap_or(0)),
        tally,
    })
}

#[cfg(test)]
pub(super) fn example() -> PacedMove {
    let mut tally = Tally::default();
    tally.queue();
    tally.drop_as(DropReason::Filtered, 3);
    let (speed, age) = (1_000, Duration::from_millis(1_500));
    let (call, name) = (CallId(u64::MAX), Some("a.1790000000000.7".into()));
    PacedMove { call, operation: -1, speed, name, age, tally }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form of an older release.
    #[test]
    fn a_broadcast_without_a_name_is_understood() {
        let moved = PacedMove { name: None, ..example() };
        let mut said = to_json(&moved);
        assert_eq!(from_json(&said), Some(moved.clone()));
        said.as_object_mut().unwrap().remove("name").unwrap();
        assert_eq!(from_json(&said), Some(moved));
    }
}
