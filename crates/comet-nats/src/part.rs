//! Answers to a push, as JSON: `{"host":"a","matched":3,"queued":2,"absent":0,"parked":0,"dropped":{"filtered":1},"hosts":["b"]}`.

use comet_core::{DropReason, Tally};
use comet_hub::cluster::Part;
use serde_json::{Map, Value, json};

/// Hosts that a part may name, and the largest number in it: more is no part.
const HOSTS_MAX: usize = 1_024;
const COUNT_MAX: u64 = 1 << 40;

pub(crate) fn encode(part: &Part) -> Vec<u8> {
    let Part { host, tally, hosts } = part;
    let dropped: Map<String, Value> = DropReason::ALL
        .iter()
        .map(|reason| (reason.label(), tally.dropped[*reason as usize]))
        .filter(|(_, connections)| *connections > 0)
        .map(|(reason, connections)| (reason.to_owned(), connections.into()))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(AsRef::as_ref).collect();
    let part = json!({
        "host": &**host,
        "matched": tally.matched,
        "queued": tally.queued,
        "absent": tally.absent,
        "parked": tally.parked,
        "dropped": dropped,
        "hosts": hosts,
    });
    part.to_string().into_bytes()
}

/// `None`: it is no part. Reasons that are not known here, of a newer host, are left out.
pub(crate) fn decode(json: &[u8]) -> Option<Part> {
    let part: Value = serde_json::from_slice(json).ok()?;
    let bounded = |value: &Value| value.as_u64().filter(|count| *count <= COUNT_MAX);
    let count = |name: &str| part.get(name).map_or(Some(0), bounded);
    let mut tally = Tally {
        matched: count("matched")?,
        queued: count("queued")?,
        absent: count("absent")?,
        parked: count("parked")?,
        ..Tally::default()
    };
    for reason in DropReason::ALL {
        if let Some(dropped) = part.get("dropped").and_then(|all| all.get(reason.label())) {
            tally.dropped[*reason as usize] = bounded(dropped)?;
        }
    }
    let hosts = match part.get("hosts") {
        Some(hosts) => hosts
            .as_array()
            .filter(|hosts| hosts.len() <= HOSTS_MAX)?
            .iter()
            .map(|host| Some(host.as_str()?.into()))
            .collect(),
        None => Some(Vec::new()),
    };
    Some(Part { host: part.get("host")?.as_str()?.into(), tally, hosts: hosts? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_comes_back_from_its_json() {
        let mut tally = Tally { absent: 2, parked: 4, ..Tally::default() };
        tally.queue();
        tally.drop_as(DropReason::Filtered, 3);
        let part = Part { host: "a".into(), tally, hosts: vec!["b".into()] };
        assert_eq!(decode(&encode(&part)), Some(part));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"host":1}"#,
            r#"{"host":"a","matched":-1}"#,
            r#"{"host":"a","matched":1e18}"#,
        ] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
