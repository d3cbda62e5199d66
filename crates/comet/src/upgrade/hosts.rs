//! The former process's state about other hosts, as JSON beside the states of its shards.

use comet_control::{ClusterHandOver, StreamPosition};
use comet_core::StreamState;
use serde_json::{Value, json};

pub(super) fn to_json(hosts: &ClusterHandOver) -> Value {
    let ClusterHandOver { last_call, hosts, silent, are_all, lead_ms, stopped_unix_ms, stream } =
        hosts;
    let names = |hosts: &[std::sync::Arc<str>]| hosts.iter().map(|host| json!(&**host)).collect();
    let (hosts, silent): (Value, Value) = (names(hosts), names(silent));
    json!({
        "last_call": last_call,
        "hosts": hosts,
        "silent": silent,
        "are_all": are_all,
        "lead_ms": lead_ms,
        "stopped_unix_ms": stopped_unix_ms,
        "stream": stream.as_ref().map(stream_to_json),
    })
}

fn stream_to_json(stream: &StreamPosition) -> Value {
    let StreamPosition { state, cut, seen_unix_ms } = stream;
    let StreamState { epoch, floor, seen, is_read: _ } = state;
    json!({ "epoch": epoch, "floor": floor, "seen": seen, "cut": cut, "seen_unix_ms": seen_unix_ms })
}

/// `None`: it is not such an object, so the stream is read from its beginning.
fn stream_from_json(stream: &Value) -> Option<StreamPosition> {
    let number = |name: &str| stream.get(name).and_then(Value::as_u64);
    let (epoch, floor, seen) = (number("epoch")?, number("floor")?, number("seen")?);
    let state = StreamState { epoch, floor, seen, is_read: true };
    let (cut, seen_unix_ms) = (number("cut")?, number("seen_unix_ms")?);
    Some(StreamPosition { state, cut, seen_unix_ms })
}

/// `None`: the former process has no other hosts.
pub(super) fn from_json(hosts: &Value) -> Option<ClusterHandOver> {
    let object = hosts.as_object()?;
    let number = |name: &str| object.get(name).and_then(Value::as_u64).unwrap_or(0);
    let names = |name: &str| {
        let names = object.get(name).and_then(Value::as_array).into_iter().flatten();
        names.filter_map(|name| name.as_str().map(Into::into)).collect()
    };
    Some(ClusterHandOver {
        last_call: number("last_call"),
        hosts: names("hosts"),
        silent: names("silent"),
        are_all: object.get("are_all").and_then(Value::as_bool).unwrap_or(false),
        lead_ms: number("lead_ms"),
        stopped_unix_ms: number("stopped_unix_ms"),
        stream: object.get("stream").and_then(stream_from_json),
    })
}

#[cfg(test)]
pub(super) fn example() -> ClusterHandOver {
    ClusterHandOver {
        last_call: u64::MAX,
        hosts: vec!["a".into(), "b".into()],
        silent: vec!["c".into()],
        are_all: true,
        lead_ms: 7,
        stopped_unix_ms: 1_700_000_000_000,
        stream: Some(StreamPosition {
            state: StreamState { epoch: u64::MAX, floor: 1 << 16, seen: 3 << 16, is_read: true },
            cut: 2,
            seen_unix_ms: 1_700_000_000_001,
        }),
    }
}
