//! Pushes of this host's callers and of other hosts.
//!
//! A push to a room waits for the hosts with members. A host that has asked long enough ago knows them. Else the first answer of one that
//! does tells them. Where nobody does, all hosts are asked whether they have members: then each known host answers in one way or the
//! other, or is named in the outcome.

use std::sync::Arc;

use comet_core::{Millis, Tally};

use super::calls::{Added, Expected};
use super::engine::{ClusterCallId, Command, HostName, Order, Part, Publication, ReplyTo, Target};
use super::question::Told;
use super::{Cluster, SETTLE_MS, UNKNOWN_HOSTS};

impl<C> Cluster<C> {
    /// Publishes a push of this host's callers. The outcome is ready at once if no host is to answer, or there is no connection.
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
                // Nobody else has members, or has said so: the first answer tells, or the engine.
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

    /// No host may have members of a room without having told.
    fn is_settled(&self, now: Millis) -> bool {
        self.settled_at <= now && self.retell_at.is_none()
    }

    /// Which hosts have members of the room is known.
    pub(super) fn is_known(&self, now: Millis, room: &str) -> bool {
        let asked = self.rooms.asked(room);
        self.is_settled(now) && asked.is_some_and(|asked| asked.after(SETTLE_MS) <= now)
    }

    /// Has the other hosts carry out an order of this host's callers, as [`Cluster::begin`] does with a push to everybody.
    pub fn order(&mut self, (now, limit_ms): (Millis, u64), order: Order, caller: C) {
        let Some(caller) = self.ensure_connected(now, caller) else { return };
        self.counts.published += 1;
        let expected = Expected::Hosts(self.hosts.names().cloned().collect());
        let silent = self.not_waited_for(now);
        let call = self.calls.open((now, limit_ms), (None, expected, false), silent, caller);
        self.commands.push_back(Command::PublishOrder { order, call });
    }

    /// Ends the call at once, for want of a connection. Or returns its caller.
    fn ensure_connected(&mut self, now: Millis, caller: C) -> Option<C> {
        self.notice_stall(now);
        if self.is_connected {
            return Some(caller);
        }
        self.counts.not_published += 1;
        let mut hosts: Vec<HostName> = self.other_hosts().cloned().collect();
        if hosts.is_empty() {
            // There may be others. Nobody has said so, for want of a connection.
            hosts.push(UNKNOWN_HOSTS.into());
        }
        self.calls.end_unanswered(caller, hosts);
        None
    }

    /// Hosts that are named if they do not answer, and that no call waits for.
    pub(super) fn not_waited_for(&self, now: Millis) -> Vec<HostName> {
        // Those that are there may not have had the time to say so.
        let unknown = (now < self.introduced_at).then(|| HostName::from(UNKNOWN_HOSTS));
        unknown.into_iter().chain(self.hosts.silent_names().cloned()).collect()
    }

    /// The engine has not taken the command to publish this push.
    pub fn not_published(&mut self, call: Option<ClusterCallId>) {
        self.counts.not_published += 1;
        if let Some(call) = call {
            self.calls.fail(call);
        }
    }

    /// A push of another host was taken from the queue. It is begun, or refused.
    pub fn note_received(&mut self, reply: Option<&ReplyTo>) {
        self.counts.received += 1;
        self.under_way.extend(reply.cloned());
    }

    /// A push of another host that was received is refused here. Its caller learns that this host has not answered.
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

    /// The cores did not report in time what became of a push of another host. Its caller learns that this host has not answered.
    pub fn note_unreported(&mut self, reply: Option<&ReplyTo>) {
        self.counts.unreported += 1;
        reply.map(|reply| self.under_way.remove(reply));
    }

    /// Notices that were lost here so far: [`EngineCounts::lost_notices`](super::EngineCounts::lost_notices). Others are asked again who
    /// has members of rooms, after a pause that is longer each time, until a minute is quiet.
    pub fn note_lost(&mut self, now: Millis, lost: u64) {
        let Self { losses, rooms, retell_at, jitter, .. } = self;
        if losses.note(now, lost, rooms.tells_all()) {
            retell_at.get_or_insert_with(|| now.after(losses.pause_ms(jitter)));
        }
    }

    /// The part of this host in a push of another one, for its answer.
    #[must_use]
    pub fn part(&mut self, now: Millis, target: &Target, tally: Tally, reply: &ReplyTo) -> Part {
        self.under_way.remove(reply);
        let (hosts, may_miss_hosts) = match target {
            // Also without subscriptions of its own: hosts with them may have members.
            Target::Room(room) => (self.rooms.peers(room).to_vec(), !self.is_known(now, room)),
            _ => (Vec::new(), false),
        };
        Part { host: self.host.clone(), tally, hosts, may_miss_hosts, told: Told::default() }
    }
}
