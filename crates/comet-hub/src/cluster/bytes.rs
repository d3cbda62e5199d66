//! Byte counts of the messages that wait between a [`Cluster`](super::Cluster) and its message broker, for the bounds
//! on these queues.
//!
//! Only heap memory is counted. The size of an event in the queue itself is bounded by the number of events.

use std::sync::Arc;

use super::engine::{Action, Event, Order, OrderTarget, Part, Publication, ReplyTo, Target};
use super::question::{MembersCursor, Question};

impl Event {
    /// Bytes of its content, for a bound on waiting events.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_reply = |ReplyTo(to): &ReplyTo| to.len();
        match self {
            Self::Push { publication, reply } => {
                publication.bytes() + reply.as_ref().map_or(0, of_reply)
            }
            Self::Ordered { order, reply } => order.bytes() + of_reply(reply),
            Self::Answered { part, .. } => part.bytes(),
            Self::MembersAsked { room, reply } => shared_bytes(room) + of_reply(reply),
            Self::Keys { host, keys, .. } => shared_bytes(host) + keys_bytes(keys),
            Self::Interest { host, room, .. } => shared_bytes(host) + shared_bytes(room),
            Self::NoMembers { host, .. }
            | Self::Refused { host, .. }
            | Self::Announced { host, .. }
            | Self::Left { host } => shared_bytes(host),
            Self::NotStored { reason, .. } => reason.len(),
            // These have a fixed size, which is bounded by the number of waiting events.
            _ => 0,
        }
    }
}

impl Part {
    /// Bytes of what it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let Self { host, tally: _, hosts, may_miss_hosts: _, question_reply } = self;
        let hosts = size_of_val(&**hosts) + hosts.iter().map(shared_bytes).sum::<usize>();
        shared_bytes(host) + hosts + question_reply.bytes()
    }
}

impl Order {
    /// Bytes of its texts and names.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let texts =
            |texts: &[String]| size_of_val(texts) + texts.iter().map(String::len).sum::<usize>();
        let (target, action) = match self {
            Self::Change { target, action } => (target, action),
            Self::CancelBroadcast { name } => return name.len(),
            Self::Tell(Question::Counts { rooms }) => return texts(rooms),
            Self::Tell(Question::Rooms { prefix, after, .. }) => return prefix.len() + after.len(),
            Self::Tell(Question::Members { room, after, .. }) => {
                let cursor = |MembersCursor { host, place }: &MembersCursor| {
                    shared_bytes(host) + place.len()
                };
                return room.len() + after.as_ref().map_or(0, cursor);
            }
        };
        let target = match target {
            OrderTarget::Room(text) | OrderTarget::Network(text) => text.len(),
            OrderTarget::Keys(keys) => texts(keys),
            OrderTarget::Users(users) => size_of_val(&**users),
        };
        target
            + match action {
                Action::Kick { reason, .. } => reason.len(),
                Action::ChangeRooms { rooms, .. } => texts(rooms),
            }
    }
}

impl Publication {
    /// Bytes of its body and of the names in its target.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let names = match &self.target {
            Target::Room(room) => room.len(),
            Target::Keys(keys) => {
                size_of_val(&**keys) + keys.iter().map(|key| key.len()).sum::<usize>()
            }
            Target::Users(users) => size_of_val(&**users),
            Target::All => 0,
        };
        let paced = self.paced.as_ref().map_or(0, |pace| pace.bytes());
        self.body.len() + self.collapse_id.len() + names + paced
    }
}

/// Bytes of keys with their times.
#[must_use]
pub fn keys_bytes(keys: &[(Box<str>, u64)]) -> usize {
    size_of_val(keys) + keys.iter().map(|(key, _)| key.len()).sum::<usize>()
}

/// Bytes of a name with the two counts of an [`Arc`].
fn shared_bytes(name: &Arc<str>) -> usize {
    name.len() + 2 * size_of::<usize>()
}

#[cfg(test)]
mod tests {
    use comet_core::Tally;

    use super::*;
    use crate::cluster::{Clock, ClusterCallId, HostMember, Page, QuestionReply};

    /// Each event has a name of 1,000 bytes somewhere, and counts for it.
    #[test]
    fn every_event_counts_the_names_that_it_holds() {
        let name = "n".repeat(1_000);
        let (shared, reply) = (|| Arc::<str>::from(&*name), || ReplyTo(name.as_str().into()));
        let call = ClusterCallId(1);
        let part = |hosts, question_reply| Part {
            host: "b".into(),
            tally: Tally::default(),
            hosts,
            may_miss_hosts: false,
            question_reply,
        };
        let answered =
            |hosts, question_reply| Event::Answered { call, part: part(hosts, question_reply) };
        let members = Page::Members {
            members: vec![HostMember {
                place: Box::default(),
                key: name.as_str().into(),
                user: 0,
                connected_seconds: 0,
            }],
            is_cut: false,
        };
        let publication = Publication {
            target: Target::All,
            accepts: 0,
            operation: 5,
            version: 0,
            sequence: 0,
            collapse_id: Box::default(),
            body: Vec::new(),
            paced: None,
        };
        let after = Some(MembersCursor { host: shared(), place: Box::default() });
        let question = Question::Members { room: String::new(), after, limit: 1 };
        let order = Order::Tell(question);
        for event in [
            Event::Push { publication, reply: Some(reply()) },
            Event::Ordered { order, reply: ReplyTo("r".into()) },
            answered(vec![shared()], QuestionReply::default()),
            answered(Vec::new(), QuestionReply { counts: vec![0; 125], page: None }),
            answered(Vec::new(), QuestionReply { counts: Vec::new(), page: Some(members) }),
            Event::MembersAsked { room: shared(), reply: ReplyTo("r".into()) },
            Event::MembersAsked { room: "r".into(), reply: reply() },
            Event::NoMembers { call, host: shared() },
            Event::Refused { call, host: shared() },
            Event::Announced { host: shared(), reads_stream: true },
            Event::Left { host: shared() },
            Event::NotStored { call, reason: name.clone() },
            Event::Keys { host: shared(), clock: Clock::default(), keys: Vec::new() },
            Event::Interest { host: "b".into(), room: shared(), has_members: true, asks: true },
            Event::Interest { host: shared(), room: "r".into(), has_members: true, asks: true },
        ] {
            assert!(event.bytes() >= 1_000, "{} bytes: {event:?}", event.bytes());
        }
        assert_eq!(Event::Connected.bytes(), 0);
    }

    #[test]
    fn many_empty_names_count_for_their_places() {
        let keys = vec![(Box::default(), 0); 1_000];
        let event = Event::Keys { host: "b".into(), clock: Clock::default(), keys };
        assert!(event.bytes() >= 24_000, "{}", event.bytes());
        let target = OrderTarget::Keys(vec![String::new(); 1_000]);
        let action = Action::ChangeRooms { rooms: vec![String::new(); 1_000], is_join: true };
        assert!(Order::Change { target, action }.bytes() >= 48_000);
    }
}
