//! Answers to a push, as JSON: `{"host":"a","matched":3,"queued":2,"absent":0,"parked":0,"dropped":{"filtered":1},"hosts":["b"]}`, with
//! `"may_miss_hosts":true` where it is so, and what a [question](crate::question) asked for. `{"host":"a","is_refused":true,"matched":null}` of a host that refuses it. And answers to the
//! question whether there are members: `{"host":"a","members":false}`.

use comet_core::{DropReason, Tally};
use comet_hub::cluster::{HostName, Part};
use serde_json::{Map, Value, json};

use crate::question;

/// Most hosts that a part may name, and the largest number in it; anything beyond is not a valid part.
const HOSTS_MAX: usize = 1_024;
const COUNT_MAX: u64 = 1 << 40;

/// The answer of a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum HostReply {
    Part(Part),
    /// It has no members of the room.
    NoMembers(HostName),
    /// It has not begun the push, and will not.
    Refused(HostName),
}

pub(crate) fn no_members(host: &str) -> Vec<u8> {
    json!({ "host": host, "members": false }).to_string().into_bytes()
}

/// The answer of a refusing host. A host that does not know this form waits until the deadline: without a number it is
/// no answer to it.
pub(crate) fn refused(host: &str) -> Vec<u8> {
    json!({ "host": host, "is_refused": true, "matched": null }).to_string().into_bytes()
}

pub(crate) fn encode(part: &Part) -> Vec<u8> {
    let Part { host, tally, hosts, may_miss_hosts, question_reply } = part;
    let dropped: Map<String, Value> = DropReason::ALL
        .iter()
        .map(|reason| (reason.label(), tally.dropped[*reason as usize]))
        .filter(|(_, connections)| *connections > 0)
        .map(|(reason, connections)| (reason.to_owned(), connections.into()))
        .collect();
    let hosts: Vec<&str> = hosts.iter().map(AsRef::as_ref).collect();
    let mut part = json!({
        "host": &**host,
        "matched": tally.matched,
        "queued": tally.queued,
        "absent": tally.absent,
        "unchanged": tally.unchanged,
        "refused": tally.refused,
        "parked": tally.parked,
        "dropped": dropped,
        "hosts": hosts,
    });
    if *may_miss_hosts {
        part["may_miss_hosts"] = true.into();
    }
    question::encode_reply(question_reply, &mut part);
    part.to_string().into_bytes()
}

/// `None`: it is not an answer. Unknown reasons, from a newer host, are left out.
pub(crate) fn decode(part: &Value) -> Option<HostReply> {
    let host = part.get("host")?.as_str()?.into();
    let flag = |name: &str| part.get(name).and_then(Value::as_bool);
    if flag("members") == Some(false) {
        return Some(HostReply::NoMembers(host));
    }
    if flag("is_refused") == Some(true) {
        return Some(HostReply::Refused(host));
    }
    let bounded = |value: &Value| value.as_u64().filter(|count| *count <= COUNT_MAX);
    let count = |name: &str| part.get(name).map_or(Some(0), bounded);
    let mut tally = Tally {
        matched: count("matched")?,
        queued: count("queued")?,
        absent: count("absent")?,
        unchanged: count("unchanged")?,
        refused: count("refused")?,
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
    let may_miss_hosts = flag("may_miss_hosts").unwrap_or_default();
    let question_reply = question::decode_reply(part, bounded)?;
    Some(HostReply::Part(Part { host, tally, hosts: hosts?, may_miss_hosts, question_reply }))
}

#[cfg(test)]
mod tests {
    use comet_hub::cluster::QuestionReply;

    use super::*;

    fn decode(json: &[u8]) -> Option<HostReply> {
        super::decode(&serde_json::from_slice(json).ok()?)
    }

    #[test]
    fn a_part_comes_back_from_its_json() {
        let mut tally =
            Tally { absent: 2, unchanged: 3, refused: 4, parked: 5, ..Tally::default() };
        tally.queue();
        tally.drop_as(DropReason::Filtered, 3);
        for may_miss_hosts in [false, true] {
            let (host, hosts) = ("a".into(), vec!["b".into()]);
            let part = Part {
                host,
                tally,
                hosts,
                may_miss_hosts,
                question_reply: QuestionReply::default(),
            };
            assert_eq!(decode(&encode(&part)), Some(HostReply::Part(part)));
        }
        assert_eq!(decode(&no_members("ä")), Some(HostReply::NoMembers("ä".into())));
        assert_eq!(decode(&refused("ä")), Some(HostReply::Refused("ä".into())));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"host":1}"#,
            r#"{"host":"a","matched":-1}"#,
            r#"{"host":"a","matched":1e18}"#,
            r#"{"host":"a","counts":[-1]}"#,
        ] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
