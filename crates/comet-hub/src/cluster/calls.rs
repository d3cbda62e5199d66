//! Pushes that other hosts are to answer.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use comet_core::{Millis, Tally};

use super::CLUSTER_CALLS_MAX;
#[cfg(doc)]
use super::UNKNOWN_HOSTS;
use super::engine::{ClusterCallId, HostName, Part};

/// What the other hosts have made of a push.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterOutcome {
    /// The sum of their parts.
    pub tally: Tally,
    /// How many have answered.
    pub hosts: u32,
    /// Hosts that should have, and did not in time. If nobody said who has members of the room: all hosts. [`UNKNOWN_HOSTS`] stands
    /// for hosts that are not known.
    pub unanswered: Vec<HostName>,
}

/// Who is to answer.
pub(super) enum Expected {
    Hosts(Vec<HostName>),
    /// The first answer says which of these. Without one it may have been any.
    AnyOf(Arc<[HostName]>),
}

struct Open<C> {
    /// Of a push to a room.
    room: Option<Arc<str>>,
    /// Hosts that have not answered. `None`: it is not known who they are.
    waiting: Option<Vec<HostName>>,
    /// Those that they may be, as long as it is not known.
    candidates: Arc<[HostName]>,
    answered: Vec<HostName>,
    /// Hosts that went before they answered.
    lost: Vec<HostName>,
    tally: Tally,
    deadline: Millis,
    caller: C,
}

impl<C> Open<C> {
    /// Hosts that were to answer, or may have been, and have not.
    fn not_answered(&self) -> impl Iterator<Item = &HostName> {
        let hosts = self.waiting.as_deref().unwrap_or(&self.candidates);
        hosts.iter().filter(|host| !self.answered.contains(host))
    }
}

pub(super) struct Calls<C> {
    open: HashMap<ClusterCallId, Open<C>>,
    deadlines: BTreeSet<(Millis, ClusterCallId)>,
    last: u64,
    ended: VecDeque<(C, ClusterOutcome)>,
}

impl<C> Calls<C> {
    pub(super) fn new() -> Self {
        let (open, deadlines, ended) = (HashMap::new(), BTreeSet::new(), VecDeque::new());
        Self { open, deadlines, last: 0, ended }
    }

    /// `None`: nobody is to answer, or too many calls are open.
    pub(super) fn open(
        &mut self,
        deadline: Millis,
        (room, expected): (Option<Arc<str>>, Expected),
        caller: C,
    ) -> Option<ClusterCallId> {
        let (waiting, candidates) = match expected {
            Expected::Hosts(hosts) if hosts.is_empty() => {
                self.end_unanswered(caller, hosts);
                return None;
            }
            Expected::Hosts(hosts) => (Some(hosts), Arc::default()),
            Expected::AnyOf(hosts) => (None, hosts),
        };
        if self.open.len() >= CLUSTER_CALLS_MAX {
            self.end_unanswered(caller, waiting.unwrap_or_else(|| candidates.to_vec()));
            return None;
        }
        self.last += 1;
        let call = ClusterCallId(self.last);
        let (answered, lost, tally) = (Vec::new(), Vec::new(), Tally::default());
        let open = Open { room, waiting, candidates, answered, lost, tally, deadline, caller };
        self.open.insert(call, open);
        self.deadlines.insert((deadline, call));
        Some(call)
    }

    /// Adds a part. Hosts that it names have to answer as well, the own one aside. `false`: the call is over, or the host has
    /// answered before.
    pub(super) fn add(&mut self, own: &HostName, call: ClusterCallId, part: Part) -> bool {
        let Some(open) = self.open.get_mut(&call) else { return false };
        let Part { host, tally, hosts } = part;
        if open.answered.contains(&host) {
            return false;
        }
        open.tally += tally;
        if open.waiting.is_none() && hosts.is_empty() && tally.matched == 0 {
            // Its last member has just left. Hosts with members are still to answer.
            open.answered.push(host);
            return true;
        }
        let waiting = open.waiting.get_or_insert_default();
        for peer in hosts {
            if peer != *own && !open.answered.contains(&peer) && !waiting.contains(&peer) {
                waiting.push(peer);
            }
        }
        waiting.retain(|peer| *peer != host);
        open.answered.push(host);
        if waiting.is_empty() {
            self.end(call);
        }
        true
    }

    /// Nobody gets the push.
    pub(super) fn end_without_others(&mut self, call: ClusterCallId) {
        if let Some(open) = self.open.get_mut(&call) {
            open.waiting = Some(Vec::new());
        }
        self.end(call);
    }

    /// Ends all calls: their answers are lost with the connection.
    pub(super) fn end_all(&mut self) {
        let mut calls: Vec<ClusterCallId> = self.open.keys().copied().collect();
        calls.sort();
        calls.into_iter().for_each(|call| self.end(call));
    }

    /// A push that was not published, so that no part of these hosts will come.
    pub(super) fn end_unanswered(&mut self, caller: C, unanswered: Vec<HostName>) {
        self.ended.push_back((caller, ClusterOutcome { unanswered, ..ClusterOutcome::default() }));
    }

    /// The call's push could not be published.
    pub(super) fn fail(&mut self, call: ClusterCallId) {
        self.end(call);
    }

    /// The host has gone, and answers no call any more.
    pub(super) fn drop_host(&mut self, host: &HostName) {
        let mut complete = Vec::new();
        for (call, open) in &mut self.open {
            let Some(waiting) = &mut open.waiting else { continue };
            let Some(at) = waiting.iter().position(|peer| peer == host) else { continue };
            open.lost.push(waiting.swap_remove(at));
            if waiting.is_empty() {
                complete.push(*call);
            }
        }
        complete.sort();
        complete.into_iter().for_each(|call| self.end(call));
    }

    /// Ends the calls whose time is over. Calls `silent` for each host that has not answered, with the room that it was
    /// known to have members of.
    pub(super) fn end_late(
        &mut self,
        now: Millis,
        mut silent: impl FnMut(Option<&Arc<str>>, &HostName),
    ) {
        while let Some(&(deadline, call)) = self.deadlines.first()
            && deadline <= now
        {
            if let Some(open) = self.open.get(&call) {
                let room = open.room.as_ref().filter(|_| open.waiting.is_some());
                open.not_answered().for_each(|host| silent(room, host));
            }
            self.end(call);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    pub(super) fn poll_outcome(&mut self) -> Option<(C, ClusterOutcome)> {
        self.ended.pop_front()
    }

    fn end(&mut self, call: ClusterCallId) {
        let Some(open) = self.open.remove(&call) else { return };
        let unanswered = open.not_answered().chain(&open.lost).cloned().collect();
        let Open { answered, tally, deadline, caller, .. } = open;
        self.deadlines.remove(&(deadline, call));
        let hosts = answered.len() as u32;
        self.ended.push_back((caller, ClusterOutcome { tally, hosts, unanswered }));
    }
}
