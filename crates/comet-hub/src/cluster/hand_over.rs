//! A live upgrade: another process of this host continues under its name.
//!
//! The other hosts do not notice it. The new process knows the hosts that the former one knew. It numbers its pushes
//! after the former one's, so that no late answer is taken for that of another push. Nobody has heard what hosts sent
//! between the two connections. So the new process announces since when it may have missed something, and hosts repeat
//! the keys that got an owner since.

use std::sync::Arc;

use comet_core::Millis;

use super::engine::{HostName, StreamPosition};
use super::{Cluster, HOST_TIMEOUT_MS};

/// The knowledge about other hosts that the continuing process needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterHandOver {
    /// The number of the latest push that hosts had to answer.
    pub last_call: u64,
    /// Hosts that are alive.
    pub hosts: Vec<HostName>,
    /// Hosts that are silent.
    pub silent: Vec<HostName>,
    /// Whether these are all hosts.
    pub are_all: bool,
    /// The most by which the clock of another host is ahead of this one's.
    pub lead_ms: u64,
    /// The time until which the former process has heard and sent all keys, in milliseconds since 1970.
    pub stopped_unix_ms: u64,
    /// The position up to which the shards have begun the shared stream. `None`: there is none, or it was not read yet.
    pub stream: Option<StreamPosition>,
}

impl<C> Cluster<C> {
    /// The state for another process, which will read the stream from `stream` on. This process stops listening at
    /// `now`, which is `now_unix_ms`.
    #[must_use]
    pub fn hand_over(
        &self,
        now: Millis,
        now_unix_ms: u64,
        stream: Option<StreamPosition>,
    ) -> ClusterHandOver {
        ClusterHandOver {
            last_call: self.calls.last(),
            hosts: self.hosts.names().cloned().collect(),
            silent: self.hosts.silent_names().cloned().collect(),
            are_all: self.is_connected && self.introduced_at <= now,
            lead_ms: self.sessions.as_ref().map_or(0, super::Sessions::lead_ms),
            stopped_unix_ms: self
                .sessions
                .as_ref()
                .map_or(now_unix_ms, |sessions| sessions.complete_until(now_unix_ms)),
            stream,
        }
    }

    /// Continues under the name of another process, before there is a connection. `rooms` are those with members here.
    pub fn take_over(
        &mut self,
        now: Millis,
        handed: ClusterHandOver,
        rooms: impl IntoIterator<Item = Arc<str>>,
    ) {
        let ClusterHandOver { last_call, hosts, silent, are_all, lead_ms, stopped_unix_ms, stream } =
            handed;
        self.calls.go_on_after(last_call);
        // The engine continues to read the stream.
        self.reads_stream = stream.is_some();
        self.hosts.take_over(now, (hosts, silent), self.reads_stream);
        // The former process stays connected for about this long.
        self.goes_on_until = are_all.then(|| now.after(HOST_TIMEOUT_MS));
        if let Some(sessions) = &mut self.sessions {
            sessions.take_over(now, lead_ms, stopped_unix_ms);
        }
        for room in rooms {
            self.set_interest(now, &room, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use comet_core::Tally;

    use super::*;
    use crate::cluster::{
        ClusterCallId, Command, Event, HOST_ANNOUNCE_MS, Part, Publication, QuestionReply, Target,
        UNKNOWN_HOSTS,
    };

    fn publication(room: &str) -> Publication {
        Publication {
            target: Target::Room(room.into()),
            accepts: 0,
            operation: 5,
            version: 0,
            sequence: 0,
            collapse_id: Box::default(),
            body: Vec::new(),
            paced: None,
        }
    }

    fn commands(cluster: &mut Cluster<u32>) -> Vec<Command> {
        std::iter::from_fn(|| cluster.poll_command()).collect()
    }

    #[test]
    fn another_process_goes_on_behind_the_calls_and_with_the_hosts() {
        let mut former: Cluster<u32> = Cluster::new("a".into(), true, 1);
        former.handle_event(Millis(0), Event::Connected);
        former.handle_event(Millis(10), Event::Announced { host: "b".into(), reads_stream: false });
        former.begin((Millis(20), 1_000), publication("r"), 1);
        let handed = former.hand_over(Millis(20), 7, None);
        assert_eq!((handed.last_call, &handed.hosts[..]), (1, &["b".into()][..]));

        let mut next: Cluster<u32> = Cluster::new("a".into(), true, 1);
        next.take_over(Millis(30), handed, ["r".into()]);
        assert_eq!(commands(&mut next), [], "the former process is this host");
        next.handle_event(Millis(40), Event::Connected);
        next.begin((Millis(40), 1_000), publication("r"), 2);
        let told = commands(&mut next);
        let is_subscribed = |command: &Command| matches!(command, Command::SubscribeOnly { rooms } if rooms == &["r".into()]);
        assert!(is_subscribed(&told[0]), "{told:?}");
        let published = told.iter().find_map(|command| match command {
            Command::Publish { call, .. } => Some(*call),
            _ => None,
        });
        assert_eq!(published, Some(Some(ClusterCallId(2))), "the other host has to answer");
        assert!(next.poll_outcome().is_none());
    }

    /// The hosts named by a push that begins when a new process connects. Its former process had been connected for `age`.
    fn named_after(age: u64, connects_after: u64) -> Vec<HostName> {
        let mut former: Cluster<u32> = Cluster::new("a".into(), true, 1);
        former.handle_event(Millis(0), Event::Connected);
        former.handle_event(Millis(10), Event::Announced { host: "b".into(), reads_stream: false });
        let mut next = Cluster::new("a".into(), true, 1);
        next.take_over(Millis(age), former.hand_over(Millis(age), 7, None), []);
        let now = Millis(age + connects_after);
        next.handle_event(now, Event::Connected);
        let publication = Publication { target: Target::All, ..publication("r") };
        next.begin((now, 1_000), publication, 1);
        let part = Part {
            host: "b".into(),
            tally: Tally::default(),
            hosts: Vec::new(),
            may_miss_hosts: false,
            question_reply: QuestionReply::default(),
        };
        next.handle_event(now, Event::Answered { call: ClusterCallId(1), part });
        let (_, outcome) = next.poll_outcome().expect("the only host has answered");
        outcome.unanswered
    }

    #[test]
    fn there_may_be_unknown_hosts_unless_the_former_process_knew_all() {
        assert_eq!(named_after(HOST_ANNOUNCE_MS, 0), []);
        assert_eq!(named_after(HOST_ANNOUNCE_MS, HOST_TIMEOUT_MS - 1), []);
        assert_eq!(named_after(HOST_ANNOUNCE_MS - 1, 0), [UNKNOWN_HOSTS.into()]);
        assert_eq!(named_after(HOST_ANNOUNCE_MS, HOST_TIMEOUT_MS), [UNKNOWN_HOSTS.into()]);
    }
}
