//! Subjects, and the messages published on each.
//!
//! | subject | what |
//! |---|---|
//! | `PREFIX.room.ROOM` | pushes to a room; hosts with members tell each other there, too |
//! | `PREFIX.history.ROOM` | pushes to a room whose history hosts share: what the stream takes |
//! | `PREFIX.key.KEY`, `PREFIX.user.USER` | a push to one key or user |
//! | `PREFIX.keys`, `PREFIX.users` | a push to several, which a header names |
//! | `PREFIX.all` | a push to everybody |
//! | `PREFIX.hosts` | each host, once a second |
//! | `PREFIX.sessions` | the time at a host, and keys that got an owner there |
//! | `PREFIX.members` | a question to all hosts: who has members of a room |
//! | `PREFIX.orders` | what all hosts are to do with connections |
//! | `PREFIX.host.HOST` | to one host: who has members of a room; what its two processes say to each other in a live upgrade |
//! | `PREFIX.reply.HOST.TOKEN.NUMBER` | answers to a push of that host |
//!
//! Rooms, keys and hosts are one token each. Characters that a token cannot contain (white space, control characters,
//! `.`, `*`, `>`, `%` and non-ASCII characters) are percent-encoded. `TOKEN` is random, and different in each process.
//! So only hosts that were asked know the subject of an answer, and a program that may publish below the prefix cannot
//! forge parts of a ledger.

use std::borrow::Cow;
use std::str;

use comet_hub::cluster::{ClusterCallId, HostName, Target};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

const NOT_IN_TOKEN: &AsciiSet = &CONTROLS.add(b' ').add(b'.').add(b'*').add(b'>').add(b'%');

/// A name as one token.
pub(crate) fn token(name: &str) -> String {
    utf8_percent_encode(name, NOT_IN_TOKEN).to_string()
}

fn name(token: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(token).decode_utf8().ok().filter(|name| !name.is_empty())
}

/// The topic of a message, by its subject.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Topic<'a> {
    Room(Cow<'a, str>),
    Key(Cow<'a, str>),
    User(i64),
    Keys,
    Users,
    All,
    Hosts,
    Sessions,
    Members,
    Orders,
    /// A message to this host.
    Host,
    /// An answer to a push of this host.
    Reply(ClusterCallId),
}

/// The subjects of one host.
#[derive(Debug)]
pub(crate) struct Subjects {
    prefix: String,
    host: HostName,
    host_token: String,
    /// The `HOST.TOKEN` of subjects for answers.
    asker: String,
    /// Random, and public: another process with the name of this host has another one.
    process: String,
}

impl Subjects {
    pub(crate) fn new(prefix: &str, host: HostName) -> Self {
        let host_token = token(&host);
        let asker = format!("{host_token}.{:032x}", rand::random::<u128>());
        let process = format!("{:016x}", rand::random::<u64>());
        Self { prefix: prefix.to_owned(), host_token, asker, process, host }
    }

    /// The name of this host.
    pub(crate) fn own_host(&self) -> &HostName {
        &self.host
    }

    /// What this process calls itself in its announcements.
    pub(crate) fn process(&self) -> &str {
        &self.process
    }

    /// The subscriptions of a host while it has a connection. `sessions`: those about keys too.
    pub(crate) fn fixed(&self, sessions: bool) -> Vec<String> {
        let Self { prefix, host_token, asker, .. } = self;
        let shared = ["key.*", "keys", "user.*", "users", "all", "hosts", "members", "orders"];
        let own = [format!("host.{host_token}"), format!("reply.{asker}.*")];
        let sessions = sessions.then(|| "sessions".to_owned());
        let all = shared.map(str::to_owned).into_iter().chain(own).chain(sessions);
        all.map(|rest| format!("{prefix}.{rest}")).collect()
    }

    pub(crate) fn every_room(&self) -> String {
        format!("{}.room.*", self.prefix)
    }

    pub(crate) fn room(&self, room: &str) -> String {
        format!("{}.room.{}", self.prefix, token(room))
    }

    /// The subjects that the stream stores.
    pub(crate) fn every_stored_room(&self) -> String {
        format!("{}.history.*", self.prefix)
    }

    pub(crate) fn stored_room(&self, room: &str) -> String {
        format!("{}.history.{}", self.prefix, token(room))
    }

    /// The room of a message of the stream.
    pub(crate) fn topic_of_stored<'a>(&self, subject: &'a str) -> Option<Topic<'a>> {
        let room = subject.strip_prefix(&self.prefix)?.strip_prefix(".history.")?;
        name(room).map(Topic::Room)
    }

    /// The name of the stream, which may have no dots.
    pub(crate) fn stream(&self) -> String {
        format!("{}-history", self.prefix.replace('.', "-"))
    }

    /// The call of this host to which the subject of an answer belongs.
    pub(crate) fn own_call(&self, subject: &str) -> Option<ClusterCallId> {
        match self.topic(subject)? {
            Topic::Reply(call) => Some(call),
            _ => None,
        }
    }

    pub(crate) fn hosts(&self) -> String {
        format!("{}.hosts", self.prefix)
    }

    pub(crate) fn sessions(&self) -> String {
        format!("{}.sessions", self.prefix)
    }

    pub(crate) fn members(&self) -> String {
        format!("{}.members", self.prefix)
    }

    pub(crate) fn orders(&self) -> String {
        format!("{}.orders", self.prefix)
    }

    pub(crate) fn host(&self, host: &str) -> String {
        format!("{}.host.{}", self.prefix, token(host))
    }

    pub(crate) fn reply(&self, ClusterCallId(call): ClusterCallId) -> String {
        format!("{}.reply.{}.{call}", self.prefix, self.asker)
    }

    pub(crate) fn target(&self, target: &Target) -> String {
        match target {
            Target::Room(room) => self.room(room),
            Target::Keys(_) => format!("{}.keys", self.prefix),
            Target::Users(_) => format!("{}.users", self.prefix),
            Target::All => format!("{}.all", self.prefix),
        }
    }

    /// `None`: the subject is none of these.
    pub(crate) fn topic<'a>(&self, subject: &'a str) -> Option<Topic<'a>> {
        let rest = subject.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        let Some((kind, rest)) = rest.split_once('.') else {
            return match rest {
                "keys" => Some(Topic::Keys),
                "users" => Some(Topic::Users),
                "all" => Some(Topic::All),
                "hosts" => Some(Topic::Hosts),
                "sessions" => Some(Topic::Sessions),
                "members" => Some(Topic::Members),
                "orders" => Some(Topic::Orders),
                _ => None,
            };
        };
        match kind {
            "room" => name(rest).map(Topic::Room),
            "key" => name(rest).map(Topic::Key),
            "user" => rest.parse().ok().map(Topic::User),
            "host" => (rest == self.host_token).then_some(Topic::Host),
            "reply" => {
                let call = rest.strip_prefix(&self.asker)?.strip_prefix('.')?;
                Some(Topic::Reply(ClusterCallId(call.parse().ok()?)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_fit_a_token_stand_there_as_they_are() {
        let subjects = Subjects::new("comet", "host-1".into());
        assert_eq!(subjects.room("live://7"), "comet.room.live://7");
        assert_eq!(subjects.room("a.b *>%"), "comet.room.a%2Eb%20%2A%3E%25");
        assert_eq!(subjects.room("ä"), "comet.room.%C3%A4");
        assert_eq!(subjects.topic("comet.room.%C3"), None, "no UTF-8");
        assert_eq!(subjects.topic("comets.all"), None);
        assert_eq!(subjects.topic("comet.user.x"), None);
    }

    /// A program that was not asked does not know the subject of the answer, and another process of the host does not
    /// take it.
    #[test]
    fn an_answer_goes_to_a_subject_that_cannot_be_guessed() {
        let [subjects, other] = [(); 2].map(|()| Subjects::new("comet", "host-1".into()));
        let reply = subjects.reply(ClusterCallId(7));
        assert_eq!(subjects.topic(&reply), Some(Topic::Reply(ClusterCallId(7))));
        assert_eq!(other.topic(&reply), None);
        assert_eq!(subjects.topic("comet.reply.host-1.7"), None);
        let asker = reply.strip_prefix("comet.reply.").unwrap().strip_suffix(".7").unwrap();
        assert_eq!(asker.len(), "host-1.".len() + 32, "{asker}");
        assert!(subjects.fixed(false).contains(&format!("comet.reply.{asker}.*")));
    }

    proptest! {
        #[test]
        fn any_name_is_one_token_and_comes_back(room in ".+") {
            let subjects = Subjects::new("a.b", "h".into());
            let subject = subjects.room(&room);
            prop_assert!(subject.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(subject.split('.').count(), 4);
            prop_assert_eq!(subjects.topic(&subject), Some(Topic::Room(Cow::Borrowed(&*room))));
        }
    }
}
