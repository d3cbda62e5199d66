//! Pushes to rooms with a shared history: they go through one stream, which each host reads.
//!
//! A push begins on no host before it is in the stream, so all hosts have the same pushes in the same order. All hosts
//! answer, the calling one included.

use comet_core::Millis;

use super::Cluster;
use super::engine::{Command, HostName, Publication};

impl<C> Cluster<C> {
    /// Sets whether this host reads the stream without delay, and so answers to its pushes. Others are told. They do
    /// not wait for a host that is starting or behind, and name it in their outcomes.
    pub fn set_reads_stream(&mut self, now: Millis, reads_stream: bool) {
        if self.reads_stream != reads_stream {
            self.reads_stream = reads_stream;
            self.next_announcement = now;
        }
    }

    /// Puts a push of this host's callers to a room into the stream.
    pub fn store(&mut self, (now, limit_ms): (Millis, u64), publication: Publication, caller: C) {
        self.notice_stall(now);
        if !self.is_connected {
            self.counts.not_published += 1;
            let reason = "there is no connection to NATS".to_owned();
            return self.calls.end_not_stored(caller, reason);
        }
        let mut hosts: Vec<HostName> = self.hosts.names_by_stream(true).cloned().collect();
        let mut not_waited_for = self.not_waited_for(now);
        not_waited_for.extend(self.hosts.names_by_stream(false).cloned());
        let own = if self.reads_stream { &mut hosts } else { &mut not_waited_for };
        own.push(self.host.clone());
        match self.calls.open_stored((now, limit_ms), hosts, not_waited_for, caller) {
            Ok(call) => {
                self.counts.published += 1;
                self.commands.push_back(Command::Store { publication, call });
            }
            Err(caller) => {
                self.counts.not_published += 1;
                let reason = "too many pushes wait for their answers".to_owned();
                self.calls.end_not_stored(caller, reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use comet_core::{DropReason, Tally};

    use super::super::{
        CLUSTER_CALLS_MAX, ClusterCallId, ClusterOutcome, Event, NotStored, Part, QuestionReply,
        Target,
    };
    use super::*;

    type Driver = Cluster<u32>;

    fn publication() -> Publication {
        Publication {
            target: Target::Room("r".into()),
            accepts: 0,
            operation: 5,
            version: 0,
            sequence: 0,
            collapse_id: Box::default(),
            body: Vec::new(),
            paced: None,
        }
    }

    fn connected() -> Driver {
        let mut cluster = Cluster::new("a".into(), true, 1);
        cluster.handle_event(Millis(0), Event::Connected);
        cluster.handle_event(Millis(0), announced("b", true));
        cluster.set_reads_stream(Millis(0), true);
        cluster.handle_timeout(Millis(2_000));
        cluster
    }

    fn announced(host: &str, reads_stream: bool) -> Event {
        Event::Announced { host: host.into(), reads_stream }
    }

    fn store(cluster: &mut Driver) -> ClusterCallId {
        cluster.store((Millis(2_000), 1_000), publication(), 7);
        let mut commands = std::iter::from_fn(|| cluster.poll_command());
        let stored = commands.find_map(|command| match command {
            Command::Store { call, .. } => Some(call),
            _ => None,
        });
        stored.expect("the engine is told")
    }

    fn answered(call: ClusterCallId, host: &str) -> Event {
        let tally = Tally { matched: 1, ..Tally::default() };
        let (host, hosts, question_reply) = (host.into(), Vec::new(), QuestionReply::default());
        Event::Answered {
            call,
            part: Part { host, tally, hosts, may_miss_hosts: false, question_reply },
        }
    }

    fn outcome(cluster: &mut Driver) -> Option<ClusterOutcome> {
        cluster.poll_outcome().map(|(caller, outcome)| {
            assert_eq!(caller, 7);
            outcome
        })
    }

    #[test]
    fn all_hosts_answer_and_this_one_as_well() {
        let mut cluster = connected();
        let call = store(&mut cluster);
        cluster.handle_event(Millis(2_001), answered(call, "b"));
        assert_eq!(outcome(&mut cluster), None);
        cluster.handle_event(Millis(2_002), answered(call, "a"));
        let outcome = outcome(&mut cluster).expect("it is complete");
        assert_eq!(
            (outcome.not_stored, outcome.unanswered, outcome.tally.matched),
            (None, vec![], 2)
        );
        assert_eq!(outcome.tally.dropped[DropReason::Filtered as usize], 0);
    }

    /// These hosts read older pushes first, and do not answer the new ones.
    #[test]
    fn hosts_that_do_not_read_the_stream_yet_are_named_and_not_waited_for() {
        let mut cluster = connected();
        cluster.handle_event(Millis(2_000), announced("c", false));
        assert_eq!((cluster.counts().hosts, cluster.counts().stream_hosts), (2, 2));
        let call = store(&mut cluster);
        cluster.handle_event(Millis(2_001), answered(call, "b"));
        cluster.handle_event(Millis(2_002), answered(call, "a"));
        let unanswered = |cluster: &mut Driver| outcome(cluster).map(|outcome| outcome.unanswered);
        assert_eq!(unanswered(&mut cluster), Some(vec!["c".into()]));
        // That host has read the rest, and this one is behind. The stream must confirm that it has the push.
        cluster.handle_event(Millis(2_000), announced("c", true));
        cluster.handle_event(Millis(2_000), announced("b", false));
        cluster.set_reads_stream(Millis(2_000), false);
        cluster.handle_timeout(Millis(2_000));
        let mut commands = std::iter::from_fn(|| cluster.poll_command());
        assert!(commands.any(|command| command == Command::Announce { reads_stream: false }));
        let call = store(&mut cluster);
        cluster.handle_event(Millis(2_001), Event::Left { host: "c".into() });
        assert_eq!(unanswered(&mut cluster), None);
        cluster.handle_event(Millis(2_002), Event::Stored { call });
        assert_eq!(unanswered(&mut cluster), Some(["b", "a", "c"].map(Into::into).to_vec()));
    }

    /// The stream's receipt is lost, and this host is slow.
    #[test]
    fn any_host_that_got_a_push_confirms_that_the_stream_has_it() {
        for is_refused in [false, true] {
            let mut cluster = connected();
            let call = store(&mut cluster);
            let refused = Event::Refused { call, host: "b".into() };
            let told = if is_refused { refused } else { answered(call, "b") };
            cluster.handle_event(Millis(2_001), told);
            cluster.handle_timeout(Millis(3_000));
            assert_eq!(outcome(&mut cluster).unwrap().not_stored, None);
        }
    }

    #[test]
    fn a_push_that_finds_too_many_calls_counts_as_not_published() {
        let mut cluster = connected();
        (0..CLUSTER_CALLS_MAX).for_each(|_| _ = store(&mut cluster));
        cluster.store((Millis(2_000), 1_000), publication(), 7);
        let reason = "too many pushes wait for their answers".to_owned();
        assert_eq!(outcome(&mut cluster).unwrap().not_stored, Some(NotStored::Refused(reason)));
        let counts = cluster.counts();
        assert_eq!((counts.published, counts.not_published), (CLUSTER_CALLS_MAX as u64, 1));
    }

    #[test]
    fn a_caller_learns_that_the_stream_does_not_take_the_push() {
        let refused = |reason: &str| Some(NotStored::Refused(reason.to_owned()));
        let mut cluster = connected();
        let call = store(&mut cluster);
        let reason = "too long".to_owned();
        cluster.handle_event(Millis(2_001), Event::NotStored { call, reason });
        assert_eq!(outcome(&mut cluster).unwrap().not_stored, refused("too long"));
        let call = store(&mut cluster);
        cluster.handle_event(Millis(2_001), Event::NoResponders { call });
        assert_eq!(outcome(&mut cluster).unwrap().not_stored, refused("no stream takes it"));
        let call = store(&mut cluster);
        cluster.handle_event(Millis(2_001), Event::NotPublished { call });
        assert_eq!(outcome(&mut cluster).unwrap().not_stored, refused("it could not be published"));
        // It is unknown whether the push is in the stream.
        store(&mut cluster);
        cluster.handle_timeout(Millis(3_000));
        assert_eq!(outcome(&mut cluster).unwrap().not_stored, Some(NotStored::Unknown));
        store(&mut cluster);
        cluster.handle_event(Millis(2_001), Event::Disconnected);
        assert_eq!(outcome(&mut cluster).unwrap().not_stored, Some(NotStored::Unknown));
        cluster.store((Millis(4_000), 1_000), publication(), 7);
        let reason = "there is no connection to NATS";
        assert_eq!(outcome(&mut cluster).unwrap().not_stored, refused(reason));
        assert_eq!(cluster.counts().silent, 0);
    }

    #[test]
    fn hosts_that_are_late_are_named_if_the_stream_has_the_push() {
        let mut cluster = connected();
        let call = store(&mut cluster);
        cluster.handle_event(Millis(2_001), Event::Stored { call });
        cluster.handle_event(Millis(2_002), answered(call, "a"));
        cluster.handle_timeout(Millis(3_000));
        let outcome = outcome(&mut cluster).expect("its time is over");
        assert_eq!((outcome.not_stored, outcome.unanswered), (None, vec!["b".into()]));
        assert_eq!(cluster.counts().silent, 1);
    }
}
