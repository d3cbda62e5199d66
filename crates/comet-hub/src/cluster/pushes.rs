//! Pushes of this host's callers and of other hosts.
//!
//! A push to a room waits for the hosts with members. A host that asked long enough ago knows them. Otherwise the first
//! answer of a host that knows them names them. If there is none, all hosts are asked whether they have members: then
//! each known host answers in one way or the other, or is named in the outcome.

use std::sync::Arc;

use comet_core::{Millis, Tally};

use super::calls::{Added, Expected};
use super::engine::{ClusterCallId, Command, HostName, Order, Part, Publication, ReplyTo, Target};
use super::question::QuestionReply;
use super::{Cluster, SETTLE_MS, UNKNOWN_HOSTS};

impl<C> Cluster<C> {
    /// Publishes a push of this host's callers. The outcome is ready at once if no host has to answer, or there is no
    /// connection.
    pub fn begin(&mut self, (now, limit_ms): (Millis, u64), publication: Publication, caller: C) {
        let Some(caller) = self.ensure_connected(now, caller) else { return };
        self.counts.published += 1;
        let room = match &publication.target {
            Target::Room(room) if self.subscribes_rooms && self.hosts.len() > 0 => {
                Some(Arc::clone(room))
            }
            _ => None,
        };
        let expected = match &room {
            Some(room) if self.is_settled(now) => match self.rooms.peers(room) {
                peers if !peers.is_empty() && self.is_known(now, room) => {
                    Expected::Members(peers.to_vec(), self.hosts.shared_names())
                }
                // No known host has members, or none has announced it. The first answer shows which have, or the engine
                // reports that nobody is subscribed.
                _ => Expected::AnyOf(self.hosts.shared_names()),
            },
            _ => Expected::Hosts(self.hosts.names().cloned().collect()),
        };
        let asked = room.clone().filter(|_| !self.is_settled(now));
        let expected = (room, expected, asked.is_some());
        let call = self.calls.open((now, limit_ms), expected, self.not_waited_for(now), caller);
        self.commands.push_back(Command::Publish { publication, call });
        if let (Some(room), Some(call)) = (asked, call) {
            self.commands.push_back(Command::AskMembers { room, call });
        }
    }

    /// Whether every host with members of a room has had time to announce it.
    fn is_settled(&self, now: Millis) -> bool {
        self.settled_at <= now && self.retell_at.is_none()
    }

    /// Whether it is known which hosts have members of the room.
    pub(super) fn is_known(&self, now: Millis, room: &str) -> bool {
        let asked = self.rooms.asked(room);
        self.is_settled(now) && asked.is_some_and(|asked| asked.after(SETTLE_MS) <= now)
    }

    /// Has the other hosts carry out an order of this host's callers, as [`Cluster::begin`] does with a push to all.
    pub fn order(&mut self, (now, limit_ms): (Millis, u64), order: Order, caller: C) {
        let Some(caller) = self.ensure_connected(now, caller) else { return };
        self.counts.published += 1;
        let expected = Expected::Hosts(self.hosts.names().cloned().collect());
        let silent = self.not_waited_for(now);
        let call = self.calls.open((now, limit_ms), (None, expected, false), silent, caller);
        self.commands.push_back(Command::PublishOrder { order, call });
    }

    /// Ends the call at once if there is no connection. Otherwise returns its caller.
    fn ensure_connected(&mut self, now: Millis, caller: C) -> Option<C> {
        self.notice_stall(now);
        if self.is_connected {
            return Some(caller);
        }
        self.counts.not_published += 1;
        let mut hosts: Vec<HostName> = self.other_hosts().cloned().collect();
        if hosts.is_empty() {
            // Other hosts may exist without being known, for lack of a connection.
            hosts.push(UNKNOWN_HOSTS.into());
        }
        self.calls.end_unanswered(caller, hosts);
        None
    }

    /// Hosts that are named if they do not answer, but are not waited for.
    pub(super) fn not_waited_for(&self, now: Millis) -> Vec<HostName> {
        // Live hosts may not have had time to announce themselves.
        let unknown = (now < self.introduced_at).then(|| HostName::from(UNKNOWN_HOSTS));
        unknown.into_iter().chain(self.hosts.silent_names().cloned()).collect()
    }

    /// Notes that the engine refused the command to publish this push.
    pub fn not_published(&mut self, call: Option<ClusterCallId>) {
        self.counts.not_published += 1;
        if let Some(call) = call {
            self.calls.fail(call);
        }
    }

    /// Notes that a push of another host was taken from the queue, to be begun or refused.
    pub fn note_received(&mut self, reply: Option<&ReplyTo>) {
        self.counts.received += 1;
        self.under_way.extend(reply.cloned());
    }

    /// Notes that a received push of another host is refused here. Its caller learns that this host has not answered.
    pub fn note_refused(&mut self, reply: Option<&ReplyTo>) {
        self.counts.refused += 1;
        if let Some(reply) = reply {
            self.under_way.remove(reply);
            self.commands.push_back(Command::Refuse { to: reply.clone() });
        }
    }

    pub(super) fn ask_whom_it_may_miss(&mut self, call: ClusterCallId, added: Added) {
        if let Added::ButOthersMayMiss(room) = added {
            self.commands.push_back(Command::AskMembers { room, call });
        }
    }

    /// Notes that the cores did not report a push of another host in time. Its caller learns that this host has not
    /// answered.
    pub fn note_unreported(&mut self, reply: Option<&ReplyTo>) {
        self.counts.unreported += 1;
        reply.map(|reply| self.under_way.remove(reply));
    }

    /// Notes the number of notices lost here so far: [`EngineCounts::lost_notices`](super::EngineCounts::lost_notices).
    /// Other hosts are asked again which of them have members of rooms, after a pause that grows each time, until there
    /// was no loss for a minute.
    pub fn note_lost(&mut self, now: Millis, lost: u64) {
        let Self { losses, rooms, retell_at, jitter, .. } = self;
        if losses.note(now, lost, rooms.announces_all()) {
            retell_at.get_or_insert_with(|| now.after(losses.pause_ms(jitter)));
        }
    }

    /// The answer of this host to a push of another one.
    #[must_use]
    pub fn part(&mut self, now: Millis, target: &Target, tally: Tally, reply: &ReplyTo) -> Part {
        self.under_way.remove(reply);
        let (hosts, may_miss_hosts) = match target {
            // This holds even for a host that subscribes to all rooms: other hosts may still have members.
            Target::Room(room) => (self.rooms.peers(room).to_vec(), !self.is_known(now, room)),
            _ => (Vec::new(), false),
        };
        Part {
            host: self.host.clone(),
            tally,
            hosts,
            may_miss_hosts,
            question_reply: QuestionReply::default(),
        }
    }
}
