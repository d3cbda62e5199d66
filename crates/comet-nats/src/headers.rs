//! The headers of a push, each optional for publishers other than comet.
//!
//! | header | what | without it |
//! |---|---|---|
//! | `Comet-Operation` | the operation of the frame | 5 |
//! | `Comet-Sequence` | its sequence | 0 |
//! | `Comet-Version` | its version | 1 |
//! | `Comet-Accepts` | the operation that a connection must accept | that of the frame |
//! | `Comet-Collapse-Id` | a newer push with this id takes the place of this one while it waits | none |
//! | `Comet-Names` | of `keys` and `users`: the names, encoded as tokens, with commas between them | the push is invalid |
//! | `Comet-Speed` | of `all`: connections a second | all at once |
//! | `Comet-Connections` | with a speed: connections of all hosts, of whose speed each has its share | each host has the whole speed |
//! | `Comet-Broadcast` | with a speed: a name, encoded as a token, by which all hosts end it | each host ends its own |
//! | `Comet-Host` | the host that publishes | it is no comet |
//! | `Comet-Reply` | of `members`: the subject that answers to the push go to | the question is invalid |
//! | | of `history`: the same, since the reply subject of such a message is the stream's | nobody answers |
//! | `Comet-Handover` | no push: what the two processes of a live upgrade say to each other | it is something else |
//! | `Comet-Subject` | the subject of a message that one of them forwards to the other | the message is invalid |
//! | `Comet-Process` | of `hosts`: a random name of the process, by which two hosts with one name notice it | they do not |
//! | `Comet-Stream` | of `hosts`: `read` if the host answers to pushes of the stream | it does not, or is behind |
//! | `Comet-Interest` | no push: the host has members of the room and `asks` who else has, `has` some, or has `none` | it is a push |

use std::hash::{DefaultHasher, Hash, Hasher};
use std::str;
use std::sync::Arc;

use async_nats::{HeaderMap, Message, Subject};
use comet_hub::cluster::{HostName, Pace, Publication, ReplyTo, Target};
use percent_encoding::percent_decode_str;

use crate::handover_notice::HandoverNotice;
use crate::subject::{Topic, token};

const OPERATION: &str = "Comet-Operation";
const SEQUENCE: &str = "Comet-Sequence";
const VERSION: &str = "Comet-Version";
const ACCEPTS: &str = "Comet-Accepts";
const COLLAPSE_ID: &str = "Comet-Collapse-Id";
const NAMES: &str = "Comet-Names";
const SPEED: &str = "Comet-Speed";
const CONNECTIONS: &str = "Comet-Connections";
const BROADCAST: &str = "Comet-Broadcast";
const HOST: &str = "Comet-Host";
const REPLY: &str = "Comet-Reply";
const INTEREST: &str = "Comet-Interest";
const PROCESS: &str = "Comet-Process";
const STREAM: &str = "Comet-Stream";
const READ: &str = "read";
const HANDOVER: &str = "Comet-Handover";
const SUBJECT: &str = "Comet-Subject";

/// The operation of a push that names none: goim's for messages to clients.
const USUAL_OPERATION: i32 = 5;

/// The statement of a host about its members of a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interest {
    Asks,
    Has,
    None,
}

impl Interest {
    const ALL: [(Self, &str); 3] = [(Self::Asks, "asks"), (Self::Has, "has"), (Self::None, "none")];

    fn word(self) -> &'static str {
        let (_, word) = Self::ALL.into_iter().find(|(other, _)| *other == self).expect("listed");
        word
    }
}

/// The headers of a push, without those that have their default value.
pub(crate) fn of_push(publication: &Publication, host: &str) -> HeaderMap {
    let Publication { target, accepts, operation, version, sequence, collapse_id, paced, body: _ } =
        publication;
    let mut headers = HeaderMap::new();
    headers.insert(HOST, host);
    for (name, value, usual) in [
        (OPERATION, *operation, USUAL_OPERATION),
        (SEQUENCE, *sequence, 0),
        (VERSION, *version, 0),
        (ACCEPTS, *accepts, 0),
    ] {
        if value != usual {
            headers.insert(name, value.to_string());
        }
    }
    if !collapse_id.is_empty() {
        headers.insert(COLLAPSE_ID, token(collapse_id));
    }
    let names: Option<Vec<String>> = match target {
        Target::Keys(keys) => Some(keys.iter().map(|key| name_in_list(key)).collect()),
        Target::Users(users) => Some(users.iter().map(ToString::to_string).collect()),
        Target::Room(_) | Target::All => None,
    };
    if let Some(names) = names {
        headers.insert(NAMES, names.join(","));
    }
    if let Some(paced) = paced {
        let Pace { speed, connections, name } = &**paced;
        headers.insert(SPEED, speed.to_string());
        if let Some(connections) = connections {
            headers.insert(CONNECTIONS, connections.to_string());
        }
        if let Some(name) = name {
            headers.insert(BROADCAST, token(name));
        }
    }
    headers
}

/// The headers of a message that needs only its host.
pub(crate) fn of_host(host: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, host);
    headers
}

/// The headers of a notice about members.
pub(crate) fn of_interest(interest: Interest, host: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, host);
    headers.insert(INTEREST, interest.word());
    headers
}

/// The headers of an announcement of the host.
pub(crate) fn of_announcement(interest: Interest, host: &str, process: &str) -> HeaderMap {
    let mut headers = of_interest(interest, host);
    headers.insert(PROCESS, process);
    headers
}

/// The process that announces its host.
pub(crate) fn process(headers: Option<&HeaderMap>) -> Option<&str> {
    text(headers, PROCESS)
}

/// Adds to an announcement that the host answers to pushes of the stream.
pub(crate) fn set_reads_stream(headers: &mut HeaderMap) {
    headers.insert(STREAM, READ);
}

/// Whether an announcement says that its host answers to pushes of the stream.
pub(crate) fn reads_stream(headers: Option<&HeaderMap>) -> bool {
    text(headers, STREAM) == Some(READ)
}

/// The headers of a question. The reply address is a header, because NATS itself answers a message with a reply subject
/// that has no subscribers.
pub(crate) fn of_question(host: &str, reply: &str) -> HeaderMap {
    let mut headers = of_host(host);
    headers.insert(REPLY, reply);
    headers
}

/// Adds the address for the answers to a push of the stream.
pub(crate) fn set_reply(headers: &mut HeaderMap, reply: &str) {
    headers.insert(REPLY, reply);
}

/// The headers of a notice to the other process of this host.
pub(crate) fn of_handover(notice: HandoverNotice, host: &str) -> HeaderMap {
    let mut headers = of_host(host);
    headers.insert(HANDOVER, notice.text());
    headers
}

/// The headers of a message that is forwarded to the other process of this host.
pub(crate) fn of_forwarded(message: &Message, is_sure: bool) -> HeaderMap {
    let notice = if is_sure { HandoverNotice::SureMessage } else { HandoverNotice::Message };
    let mut headers = message.headers.clone().unwrap_or_default();
    headers.insert(HANDOVER, notice.text());
    headers.insert(SUBJECT, message.subject.as_str());
    headers
}

/// The notice of the other process of this host.
pub(crate) fn handover_notice(headers: Option<&HeaderMap>) -> Option<HandoverNotice> {
    HandoverNotice::of(text(headers, HANDOVER)?)
}

/// The subject of a forwarded message.
pub(crate) fn forwarded_subject(headers: Option<&HeaderMap>) -> Option<Subject> {
    text(headers, SUBJECT).map(Into::into)
}

/// A hash of the headers, the same for a forwarded message and for any order of the headers.
pub(crate) fn digest(headers: Option<&HeaderMap>) -> u64 {
    let entries = headers.into_iter().flat_map(HeaderMap::iter);
    let entries = entries.map(|(name, values)| (AsRef::<str>::as_ref(name), values));
    let own = entries.filter(|(name, _)| ![HANDOVER, SUBJECT].contains(name));
    let digests = own.map(|(name, values)| {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        values.iter().for_each(|value| value.as_str().hash(&mut hasher));
        hasher.finish()
    });
    digests.fold(0, u64::wrapping_add)
}

/// The address for the answer to a question, or to a push of the stream.
pub(crate) fn reply(headers: Option<&HeaderMap>) -> Option<ReplyTo> {
    text(headers, REPLY).map(|to| ReplyTo(to.into()))
}

/// The host that published, if it is a comet.
pub(crate) fn host(headers: Option<&HeaderMap>) -> Option<HostName> {
    text(headers, HOST).map(Arc::from)
}

/// The statement of a host about its members of the room, if the message is not a push. `Err`: the statement is
/// unknown.
pub(crate) fn interest(headers: Option<&HeaderMap>) -> Result<Option<Interest>, ()> {
    let Some(word) = text(headers, INTEREST) else { return Ok(None) };
    let known = Interest::ALL.into_iter().find(|(_, known)| *known == word);
    known.map(|(interest, _)| Some(interest)).ok_or(())
}

/// The push of a message, if its headers and topic are valid.
pub(crate) fn push(
    topic: Topic<'_>,
    headers: Option<&HeaderMap>,
    body: Vec<u8>,
) -> Option<Publication> {
    let target = match topic {
        Topic::Room(room) => Target::Room(room.into()),
        Topic::Key(key) => Target::Keys([key.into()].into()),
        Topic::User(user) => Target::Users([user].into()),
        Topic::Keys => {
            let names = text(headers, NAMES)?.split(',').map(|name| decoded(name).map(Into::into));
            Target::Keys(names.collect::<Option<Vec<Box<str>>>>()?.into())
        }
        Topic::Users => {
            let users = text(headers, NAMES)?.split(',').map(|user| user.parse().ok());
            Target::Users(users.collect::<Option<Vec<i64>>>()?.into())
        }
        Topic::All => Target::All,
        Topic::Hosts
        | Topic::Sessions
        | Topic::Members
        | Topic::Orders
        | Topic::Host
        | Topic::Reply(_) => return None,
    };
    let number = |name, usual| match text(headers, name) {
        Some(text) => text.parse().ok(),
        None => Some(usual),
    };
    let collapse_id = match text(headers, COLLAPSE_ID) {
        Some(id) => decoded(id)?.into(),
        None => Box::default(),
    };
    let paced = match (pace(headers)?, &target) {
        (Some(_), Target::Room(_) | Target::Keys(_) | Target::Users(_)) => return None,
        (paced, _) => paced.map(Box::new),
    };
    Some(Publication {
        target,
        accepts: number(ACCEPTS, 0)?,
        operation: number(OPERATION, USUAL_OPERATION)?,
        version: number(VERSION, 0)?,
        sequence: number(SEQUENCE, 0)?,
        collapse_id,
        body,
        paced,
    })
}

/// The pace of a broadcast, if it is paced. `None`: the headers are invalid.
fn pace(headers: Option<&HeaderMap>) -> Option<Option<Pace>> {
    let Some(speed) = text(headers, SPEED) else { return Some(None) };
    let connections = match text(headers, CONNECTIONS) {
        Some(connections) => Some(connections.parse().ok()?),
        None => None,
    };
    let name = match text(headers, BROADCAST) {
        Some(name) => {
            let name = decoded(name).filter(|name| (1..=Pace::NAME_MAX).contains(&name.len()))?;
            Some(name.into())
        }
        None => None,
    };
    Some(Some(Pace { speed: speed.parse().ok()?, connections, name }))
}

/// A name in a list: a token without a comma.
fn name_in_list(name: &str) -> String {
    token(name).replace(',', "%2C")
}

fn decoded(token: &str) -> Option<String> {
    percent_decode_str(token).decode_utf8().ok().map(Into::into)
}

fn text<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    headers?.get(name).map(async_nats::HeaderValue::as_str)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::subject::Subjects;

    fn round_trip(publication: &Publication) -> Option<Publication> {
        let subjects = Subjects::new("comet", "h".into());
        let subject = subjects.target(&publication.target);
        let headers = of_push(publication, "h");
        push(subjects.topic(&subject)?, Some(&headers), publication.body.clone())
    }

    fn publication(target: Target) -> Publication {
        Publication {
            target,
            accepts: 7,
            operation: 1_000,
            version: 2,
            sequence: -1,
            collapse_id: "score of, ä".into(),
            body: b"body".to_vec(),
            paced: None,
        }
    }

    #[test]
    fn a_push_comes_back_from_its_headers() {
        for target in [
            Target::Room("live://7".into()),
            Target::Keys(["a,b".into(), "%".into()].into()),
            Target::Users([1, -2].into()),
            Target::All,
        ] {
            let publication = publication(target);
            assert_eq!(round_trip(&publication), Some(publication.clone()));
        }
    }

    #[test]
    fn a_publisher_needs_no_headers() {
        let push = push(Topic::Room("r".into()), None, b"b".to_vec()).expect("it is a push");
        assert_eq!((push.operation, push.version, push.accepts), (5, 0, 0));
    }

    #[test]
    fn headers_that_are_no_numbers_make_no_push() {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "five");
        assert_eq!(push(Topic::All, Some(&headers), Vec::new()), None);
        assert_eq!(push(Topic::Keys, None, Vec::new()), None, "no names");
        let mut headers = HeaderMap::new();
        headers.insert(NAMES, "1,x");
        assert_eq!(push(Topic::Users, Some(&headers), Vec::new()), None);
    }

    fn paced(speed: &str, more: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SPEED, speed);
        more.iter().for_each(|(name, value)| headers.insert(*name, *value));
        headers
    }

    #[test]
    fn a_paced_broadcast_comes_back_from_its_headers() {
        let speed = NonZeroU32::MAX;
        for connections in [None, Some(0), Some(u64::MAX)] {
            for name in [None, Some("ä b.1790000000000.7".into())] {
                let paced = Some(Box::new(Pace { speed, connections, name }));
                let publication = Publication { paced, ..publication(Target::All) };
                assert_eq!(round_trip(&publication), Some(publication.clone()));
            }
        }
        let alone = push(Topic::All, Some(&paced("100", &[])), Vec::new()).unwrap().paced.unwrap();
        assert_eq!((alone.speed.get(), alone.connections, alone.name), (100, None, None));
    }

    #[test]
    fn a_speed_is_a_positive_number_and_of_everybody() {
        for speed in ["0", "-1", "", "fast", "4294967296"] {
            assert_eq!(push(Topic::All, Some(&paced(speed, &[])), Vec::new()), None, "{speed}");
        }
        let long = "n".repeat(Pace::NAME_MAX + 1);
        for (name, value) in
            [(CONNECTIONS, "-1"), (CONNECTIONS, "many"), (BROADCAST, ""), (BROADCAST, &long)]
        {
            let headers = paced("1", &[(name, value)]);
            assert_eq!(push(Topic::All, Some(&headers), Vec::new()), None, "{name}: {value}");
        }
        let names = paced("1", &[(NAMES, "1")]);
        for topic in [
            Topic::Room("r".into()),
            Topic::Key("1".into()),
            Topic::User(1),
            Topic::Keys,
            Topic::Users,
        ] {
            let what = format!("{topic:?}");
            assert_eq!(push(topic, Some(&names), Vec::new()), None, "{what}");
        }
        assert!(push(Topic::All, Some(&names), Vec::new()).is_some());
    }
}
