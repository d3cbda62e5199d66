//! Pushes that other hosts have to answer.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use comet_core::{Millis, Tally};

use super::CLUSTER_CALLS_MAX;
#[cfg(doc)]
use super::UNKNOWN_HOSTS;
use super::engine::{ClusterCallId, HostName, Part};
use super::question::{Pages, QuestionReply};

/// The result of a push on the other hosts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterOutcome {
    /// The sum of their parts.
    pub tally: Tally,
    /// The sum of their counts, each at its place.
    pub counts: Vec<u64>,
    /// The pages that they gave.
    pub pages: Pages,
    /// How many have answered.
    pub hosts: u32,
    /// Hosts that should have answered and did not in time: all hosts, if it is unknown which have members of the room.
    /// [`UNKNOWN_HOSTS`] stands for hosts that are not known.
    pub unanswered: Vec<HostName>,
    /// Why a push for the shared stream is not known to be in it.
    pub not_stored: Option<NotStored>,
}

/// Why a push is not known to be in the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotStored {
    /// It is not in the stream, and will not be.
    Refused(String),
    /// It may be in the stream, or may still get there.
    Unknown,
}

/// The hosts that have to answer.
pub(super) enum Expected {
    Hosts(Vec<HostName>),
    /// The known hosts with members; and all known hosts.
    Members(Vec<HostName>, Arc<[HostName]>),
    /// The first answer shows which of these hosts have to answer. Without an answer, any may have had to.
    AnyOf(Arc<[HostName]>),
}

/// The effect of a part on its call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Added {
    /// It is added.
    InTime,
    /// It is added, and all hosts have to be asked whether they have members of this room.
    ButOthersMayMiss(Arc<str>),
    /// The call is over, or the host has answered before.
    Late,
}

struct Open<C> {
    /// The room, for a push to a room.
    room: Option<Arc<str>>,
    /// Hosts that have not answered. `None`: it is not known which have to.
    waiting: Option<Vec<HostName>>,
    /// For a push to a room: all hosts that were known when it began.
    candidates: Arc<[HostName]>,
    /// Whether all hosts were asked whether they have members of the room.
    is_asked: bool,
    answered: Vec<HostName>,
    /// Hosts that answered that they have no members of the room.
    without_members: Vec<HostName>,
    /// Hosts that left or became silent before they answered.
    lost: Vec<HostName>,
    tally: Tally,
    counts: Vec<u64>,
    pages: Pages,
    began: Millis,
    deadline: Millis,
    /// Whether the stream has it. `None`: it is not for the stream.
    is_stored: Option<bool>,
    caller: C,
}

impl<C> Open<C> {
    fn new((began, limit_ms): (Millis, u64), silent: Vec<HostName>, caller: C) -> Self {
        Self {
            room: None,
            waiting: None,
            candidates: Arc::default(),
            is_asked: false,
            answered: Vec::new(),
            without_members: Vec::new(),
            lost: silent,
            tally: Tally::default(),
            counts: Vec::new(),
            pages: Vec::new(),
            began,
            deadline: began.after(limit_ms),
            is_stored: None,
            caller,
        }
    }

    /// Notes that the stream has the push, as the stream itself said, or a host that read it there.
    fn note_stored(&mut self) {
        self.is_stored = self.is_stored.map(|_| true);
    }

    /// Whether no answer is awaited.
    fn is_complete(&self) -> bool {
        self.waiting.as_ref().is_some_and(Vec::is_empty) && self.is_stored != Some(false)
    }

    /// Whether no host was heard since the call began. Then the connection may have been dead already, and the
    /// knowledge about rooms may be outdated.
    fn may_be_unheard(&self, heard: Option<Millis>) -> bool {
        let is_silent = self.answered.is_empty() && self.without_members.is_empty();
        is_silent && heard.is_none_or(|heard| heard < self.began)
    }

    /// Has all known hosts named, if the call may have reached none.
    fn doubt(&mut self, heard: Option<Millis>) {
        if self.may_be_unheard(heard) {
            let waiting = self.waiting.get_or_insert_with(|| self.candidates.to_vec());
            let is_named = |host: &HostName| waiting.contains(host) || self.lost.contains(host);
            let others = self.candidates.iter().filter(|host| !is_named(host));
            let others: Vec<HostName> = others.cloned().collect();
            waiting.extend(others);
        }
    }

    /// Hosts that had to answer, or may have had to, and did not.
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
    /// Hosts that outcomes have named as unanswered.
    silent: u64,
}

impl<C> Calls<C> {
    pub(super) fn new() -> Self {
        let (open, deadlines, ended) = (HashMap::new(), BTreeSet::new(), VecDeque::new());
        Self { open, deadlines, last: 0, ended, silent: 0 }
    }

    /// Hosts that were named as unanswered so far, a host for each call.
    pub(super) fn silent(&self) -> u64 {
        self.silent
    }

    /// The number of the latest call that hosts had to answer; 0: there was none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Numbers the next call after `last`.
    pub(super) fn go_on_after(&mut self, last: u64) {
        self.last = last.max(self.last);
    }

    /// Opens a call. `silent` hosts are named if they do not answer, but not waited for. `None`: no host has to answer,
    /// or too many calls are open.
    pub(super) fn open(
        &mut self,
        (began, limit_ms): (Millis, u64),
        (room, expected, is_asked): (Option<Arc<str>>, Expected, bool),
        silent: Vec<HostName>,
        caller: C,
    ) -> Option<ClusterCallId> {
        let (waiting, candidates) = match expected {
            Expected::Hosts(hosts) if hosts.is_empty() => {
                self.end_unanswered(caller, silent);
                return None;
            }
            Expected::Hosts(hosts) => (Some(hosts), Arc::default()),
            Expected::Members(hosts, all) => (Some(hosts), all),
            Expected::AnyOf(hosts) => (None, hosts),
        };
        if self.open.len() >= CLUSTER_CALLS_MAX {
            let mut hosts = waiting.unwrap_or_else(|| candidates.to_vec());
            hosts.extend(silent);
            self.end_unanswered(caller, hosts);
            return None;
        }
        let open = Open {
            room,
            waiting,
            candidates,
            is_asked,
            ..Open::new((began, limit_ms), silent, caller)
        };
        Some(self.begin(open))
    }

    /// As [`Calls::open`], for a push to the stream, whose receipt is awaited too. If too many calls are open, the
    /// caller is returned.
    pub(super) fn open_stored(
        &mut self,
        times: (Millis, u64),
        hosts: Vec<HostName>,
        silent: Vec<HostName>,
        caller: C,
    ) -> Result<ClusterCallId, C> {
        if self.open.len() >= CLUSTER_CALLS_MAX {
            return Err(caller);
        }
        let open = Open::new(times, silent, caller);
        Ok(self.begin(Open { waiting: Some(hosts), is_stored: Some(false), ..open }))
    }

    fn begin(&mut self, open: Open<C>) -> ClusterCallId {
        self.last += 1;
        let call = ClusterCallId(self.last);
        self.deadlines.insert((open.deadline, call));
        self.open.insert(call, open);
        call
    }

    /// Notes that the push is in the stream.
    pub(super) fn note_stored(&mut self, call: ClusterCallId) {
        let Some(open) = self.open.get_mut(&call) else { return };
        open.note_stored();
        if open.is_complete() {
            self.end(call);
        }
    }

    /// Notes that the stream refused the push. `false`: the push is not for the stream.
    pub(super) fn refuse_stored(&mut self, call: ClusterCallId, reason: &str) -> bool {
        if self.open.get(&call).is_none_or(|open| open.is_stored.is_none()) {
            return false;
        }
        self.end_as(call, Some(NotStored::Refused(reason.to_owned())));
        true
    }

    /// Ends a push that was not given to the stream.
    pub(super) fn end_not_stored(&mut self, caller: C, reason: String) {
        let not_stored = Some(NotStored::Refused(reason));
        self.ended.push_back((caller, ClusterOutcome { not_stored, ..ClusterOutcome::default() }));
    }

    /// Adds a part.
    pub(super) fn add(&mut self, own: &HostName, call: ClusterCallId, part: Part) -> Added {
        let Some(open) = self.open.get_mut(&call) else { return Added::Late };
        let Part {
            host,
            tally,
            hosts,
            may_miss_hosts,
            question_reply: QuestionReply { counts, page },
        } = part;
        if open.answered.contains(&host) {
            return Added::Late;
        }
        open.tally += tally;
        add_counts(&mut open.counts, &counts);
        open.lost.retain(|lost| *lost != host);
        open.note_stored();
        open.pages.extend(page.map(|page| (host.clone(), page)));
        open.answered.push(host);
        // A host without members lost its last one just now, so it no longer knows other hosts.
        let tells_all = !may_miss_hosts && (tally.matched > 0 || !hosts.is_empty());
        self.go_on(own, call, &hosts, tells_all)
    }

    /// Notes that the host has not begun the call and will not. It is not waited for any longer.
    pub(super) fn refuse(&mut self, own: &HostName, call: ClusterCallId, host: HostName) -> Added {
        let Some(open) = self.open.get_mut(&call) else { return Added::Late };
        if open.answered.contains(&host) {
            return Added::Late;
        }
        if !open.lost.contains(&host) {
            open.lost.push(host);
        }
        open.note_stored();
        self.go_on(own, call, &[], false)
    }

    /// Waits for the rest after a host has answered or refused. `hosts` have to answer as well, except for this one. If
    /// it is still unknown which hosts have to, and this answer does not tell for certain, all candidates have to.
    fn go_on(
        &mut self,
        own: &HostName,
        call: ClusterCallId,
        hosts: &[HostName],
        tells_all: bool,
    ) -> Added {
        let Some(open) = self.open.get_mut(&call) else { return Added::Late };
        let asks = open.waiting.is_none() && !tells_all;
        let waiting = open.waiting.get_or_insert_default();
        let candidates = if asks { &*open.candidates } else { &[] };
        for peer in candidates.iter().chain(hosts) {
            let is_known = [&open.answered, &open.without_members, &open.lost, &*waiting];
            if peer != own && !is_known.iter().any(|hosts| hosts.contains(peer)) {
                waiting.push(peer.clone());
            }
        }
        waiting.retain(|peer| !open.answered.contains(peer) && !open.lost.contains(peer));
        if waiting.is_empty() {
            self.end(call);
            return Added::InTime;
        }
        let asks = asks && !std::mem::replace(&mut open.is_asked, true);
        let room = open.room.clone().filter(|_| asks);
        room.map_or(Added::InTime, Added::ButOthersMayMiss)
    }

    /// Notes that the host has no members of the call's room.
    pub(super) fn excuse(&mut self, call: ClusterCallId, host: HostName) {
        let Some(open) = self.open.get_mut(&call) else { return };
        open.lost.retain(|lost| *lost != host);
        let Some(waiting) = &mut open.waiting else { return };
        waiting.retain(|peer| *peer != host);
        open.without_members.push(host);
        if waiting.is_empty() {
            self.end(call);
        }
    }

    /// The room of a call.
    pub(super) fn room(&self, call: ClusterCallId) -> Option<&Arc<str>> {
        self.open.get(&call)?.room.as_ref()
    }

    /// Ends a call whose push no host got. The awaited hosts cannot answer.
    pub(super) fn end_without_others(&mut self, call: ClusterCallId) {
        if let Some(open) = self.open.get_mut(&call) {
            open.waiting.get_or_insert_default();
        }
        self.end(call);
    }

    /// Handles a push that no host got, while it is unknown which should have. `true`: all hosts must be asked whether
    /// they have members.
    pub(super) fn ask_others(&mut self, call: ClusterCallId) -> bool {
        let Some(open) = self.open.get_mut(&call) else { return false };
        let asks = !std::mem::replace(&mut open.is_asked, true);
        let waiting = open.waiting.get_or_insert_with(|| open.candidates.to_vec());
        if waiting.is_empty() {
            self.end(call);
        }
        asks
    }

    /// Ends all calls, because their answers are lost with the connection.
    pub(super) fn end_all(&mut self, heard: Option<Millis>) {
        let mut calls: Vec<ClusterCallId> = self.open.keys().copied().collect();
        calls.sort();
        calls.into_iter().for_each(|call| self.give_up(call, heard, |_, _| {}));
    }

    /// Ends a push that was not published. These hosts will send no part of it.
    pub(super) fn end_unanswered(&mut self, caller: C, unanswered: Vec<HostName>) {
        self.silent += unanswered.len() as u64;
        self.ended.push_back((caller, ClusterOutcome { unanswered, ..ClusterOutcome::default() }));
    }

    /// Ends a call whose push could not be published.
    pub(super) fn fail(&mut self, call: ClusterCallId) {
        if !self.refuse_stored(call, "it could not be published") {
            self.end(call);
        }
    }

    /// Notes that the host has left or is silent, and answers no call any more. `heard`: when any host was last heard.
    pub(super) fn drop_host(&mut self, host: &HostName, heard: Option<Millis>) {
        let mut complete = Vec::new();
        for (call, open) in &mut self.open {
            let Some(waiting) = &mut open.waiting else { continue };
            let Some(at) = waiting.iter().position(|peer| peer == host) else { continue };
            open.lost.push(waiting.swap_remove(at));
            // A call that may have reached no host waits until its deadline: any host may still answer.
            if open.is_complete() && !open.may_be_unheard(heard) {
                complete.push(*call);
            }
        }
        complete.sort();
        complete.into_iter().for_each(|call| self.end(call));
    }

    /// Ends the calls whose time is over. Calls `silent` for each host that has not answered, with the room of which it
    /// was known to have members.
    pub(super) fn end_late(
        &mut self,
        now: Millis,
        heard: Option<Millis>,
        mut silent: impl FnMut(Option<&Arc<str>>, &HostName),
    ) {
        while let Some(&(deadline, call)) = self.deadlines.first()
            && deadline <= now
        {
            self.give_up(call, heard, &mut silent);
        }
    }

    /// Ends an incomplete call. Calls `silent` as [`Calls::end_late`] does.
    fn give_up(
        &mut self,
        call: ClusterCallId,
        heard: Option<Millis>,
        mut silent: impl FnMut(Option<&Arc<str>>, &HostName),
    ) {
        if let Some(open) = self.open.get_mut(&call) {
            open.doubt(heard);
            let room = open.room.as_ref().filter(|_| open.waiting.is_some());
            open.not_answered().for_each(|host| silent(room, host));
        }
        self.end(call);
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    pub(super) fn poll_outcome(&mut self) -> Option<(C, ClusterOutcome)> {
        self.ended.pop_front()
    }

    fn end(&mut self, call: ClusterCallId) {
        let is_stored = self.open.get(&call).and_then(|open| open.is_stored);
        self.end_as(call, (is_stored == Some(false)).then_some(NotStored::Unknown));
    }

    fn end_as(&mut self, call: ClusterCallId, not_stored: Option<NotStored>) {
        let Some(open) = self.open.remove(&call) else { return };
        let unanswered: Vec<HostName> = open.not_answered().chain(&open.lost).cloned().collect();
        // No host can answer a push that the stream did not take, so the reply names none.
        if not_stored.is_none() {
            self.silent += unanswered.len() as u64;
        }
        let Open { answered, tally, counts, pages, deadline, caller, .. } = open;
        self.deadlines.remove(&(deadline, call));
        let hosts = answered.len() as u32;
        let outcome = ClusterOutcome { tally, counts, pages, hosts, unanswered, not_stored };
        self.ended.push_back((caller, outcome));
    }
}

/// Adds each count to the sum at the same index.
pub fn add_counts(sums: &mut Vec<u64>, counts: &[u64]) {
    sums.resize(sums.len().max(counts.len()), 0);
    sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(*count));
}
