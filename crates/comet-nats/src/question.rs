//! Questions to all hosts, as JSON: `{"order":"count","rooms":["r"]}`, `{"order":"rooms","prefix":"live://","after":"","limit":100}` and
//! `{"order":"members","room":"r","limit":100}`, with `"after":["a","7.0.1.2"]` behind the first page. And what a part tells for its
//! answer: `"counts":[1,2]`, `"rooms":[["r",3]]` or `"members":[["7.0.1.2","key",42,60]]`, with `"is_cut":true` where there are more.

use std::sync::Arc;

use comet_hub::cluster::{HostMember, MembersCursor, Page, Question, QuestionReply};
use serde_json::{Value, json};

/// Most entries of a list in a part; a part with more is not valid.
const ENTRIES_MAX: usize = 65_536;

pub(crate) fn encode(question: &Question) -> Value {
    match question {
        Question::Counts { rooms } => json!({ "order": "count", "rooms": rooms }),
        Question::Rooms { prefix, after, limit } => {
            json!({ "order": "rooms", "prefix": prefix, "after": after, "limit": limit })
        }
        Question::Members { room, after, limit } => {
            let mut value = json!({ "order": "members", "room": room, "limit": limit });
            if let Some(MembersCursor { host, place }) = after {
                value["after"] = json!([&**host, &**place]);
            }
            value
        }
    }
}

/// The question for this word. `None`: there is none.
pub(crate) fn decode(word: &str, value: &Value) -> Option<Question> {
    let text = |name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let limit = || value.get("limit")?.as_u64()?.try_into().ok();
    Some(match word {
        "count" => {
            let rooms = value.get("rooms")?.as_array()?.iter();
            let rooms = rooms.map(|room| Some(room.as_str()?.to_owned())).collect::<Option<_>>()?;
            Question::Counts { rooms }
        }
        "rooms" => {
            Question::Rooms { prefix: text("prefix")?, after: text("after")?, limit: limit()? }
        }
        "members" => {
            let after = match value.get("after").map(Value::as_array) {
                Some(Some(after)) => match &after[..] {
                    [host, place] => Some(MembersCursor {
                        host: host.as_str()?.into(),
                        place: place.as_str()?.into(),
                    }),
                    _ => return None,
                },
                Some(None) => return None,
                None => None,
            };
            Question::Members { room: text("room")?, after, limit: limit()? }
        }
        _ => return None,
    })
}

/// Adds the answer to a part.
pub(crate) fn encode_reply(reply: &QuestionReply, part: &mut Value) {
    let QuestionReply { counts, page } = reply;
    if !counts.is_empty() {
        part["counts"] = json!(counts);
    }
    let is_cut = match page {
        Some(Page::Rooms { rooms, is_cut }) => {
            part["rooms"] = rooms.iter().map(|(room, members)| json!([&**room, members])).collect();
            *is_cut
        }
        Some(Page::Members { members, is_cut }) => {
            let member = |HostMember { place, key, user, connected_seconds }: &HostMember| {
                json!([&**place, &**key, user, connected_seconds])
            };
            part["members"] = members.iter().map(member).collect();
            *is_cut
        }
        None => false,
    };
    if is_cut {
        part["is_cut"] = true.into();
    }
}

/// `None`: it is malformed. `bounded` reads a count.
pub(crate) fn decode_reply(
    part: &Value,
    bounded: impl Fn(&Value) -> Option<u64>,
) -> Option<QuestionReply> {
    let list = |name: &str| match part.get(name) {
        Some(list) => list.as_array().filter(|list| list.len() <= ENTRIES_MAX).map(Some),
        None => Some(None),
    };
    let is_cut = part.get("is_cut").and_then(Value::as_bool).unwrap_or_default();
    let counts = list("counts")?.into_iter().flatten().map(&bounded).collect::<Option<_>>()?;
    let page = if let Some(rooms) = list("rooms")? {
        let room = |entry: &Value| -> Option<(Arc<str>, u64)> {
            let [room, members] = &entry.as_array()?[..] else { return None };
            Some((room.as_str()?.into(), bounded(members)?))
        };
        Some(Page::Rooms { rooms: rooms.iter().map(room).collect::<Option<_>>()?, is_cut })
    } else if let Some(members) = list("members")? {
        let member = |entry: &Value| {
            let [place, key, user, seconds] = &entry.as_array()?[..] else { return None };
            Some(HostMember {
                place: place.as_str()?.into(),
                key: key.as_str()?.into(),
                user: user.as_i64()?,
                connected_seconds: bounded(seconds)?,
            })
        };
        Some(Page::Members { members: members.iter().map(member).collect::<Option<_>>()?, is_cut })
    } else {
        None
    };
    Some(QuestionReply { counts, page })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_comes_back_from_its_json() {
        let cursor = MembersCursor { host: "ä".into(), place: "1.2.3.4".into() };
        let members = |after| Question::Members { room: "r".to_owned(), after, limit: u32::MAX };
        for question in [
            Question::Counts { rooms: vec!["r".to_owned(), "\"".to_owned()] },
            Question::Rooms { prefix: "live://".to_owned(), after: String::new(), limit: 1 },
            members(None),
            members(Some(cursor)),
        ] {
            let value = encode(&question);
            let word = value["order"].as_str().unwrap();
            assert_eq!(decode(word, &value), Some(question));
        }
        for bad in [
            json!({ "order": "count" }),
            json!({ "order": "rooms", "prefix": "", "after": "", "limit": -1 }),
            json!({ "order": "members", "room": "r", "limit": 1, "after": ["a"] }),
            json!({ "order": "dance" }),
        ] {
            assert_eq!(decode(bad["order"].as_str().unwrap(), &bad), None, "{bad}");
        }
    }

    #[test]
    fn pages_of_an_answer_are_read_back_from_their_json() {
        let member = HostMember {
            place: "1.2.3.4".into(),
            key: "\u{1}k".into(),
            user: i64::MIN,
            connected_seconds: 9,
        };
        for is_cut in [false, true] {
            for page in [
                Page::Rooms { rooms: vec![("r".into(), 3)], is_cut },
                Page::Members { members: vec![member.clone()], is_cut },
                Page::Members { members: Vec::new(), is_cut },
            ] {
                let reply = QuestionReply { counts: vec![5, 0], page: Some(page) };
                let mut part = json!({});
                encode_reply(&reply, &mut part);
                assert_eq!(decode_reply(&part, Value::as_u64), Some(reply));
            }
        }
        for bad in [
            json!({ "counts": [-1] }),
            json!({ "rooms": [["r"]] }),
            json!({ "members": [["1.2.3.4", "k", 1]] }),
            json!({ "members": 1 }),
        ] {
            assert_eq!(decode_reply(&bad, Value::as_u64), None, "{bad}");
        }
    }
}
