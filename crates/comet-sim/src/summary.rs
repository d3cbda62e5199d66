//! What runs have covered.

use std::fmt;
use std::ops::AddAssign;

use comet_core::{
    CallerEnd, CloseReason, Counters, DropReason, Limits, STATUS_CODES, SlowConsumer, Tally,
};
use comet_proto::RoomRefusal;

use crate::fanout_summary::FanoutSummary;
use crate::logic_summary::LogicSummary;
use crate::socket_faults::SocketFaults;

/// What one run has covered, or the sum of several runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// The number of runs.
    pub runs: u64,
    /// Steps of simulated time.
    pub steps: u64,
    /// Runs by number of shards, from 1.
    pub shards: [u64; 4],
    /// Runs by policy of a full outbox: drop newest, drop oldest, close.
    pub policies: [u64; 3],
    /// Calls: pushes and others.
    pub calls: u64,
    /// Calls that ended with a message waiting for a full inbox.
    pub calls_inbox_full: u64,
    /// Calls that ended with reports missing.
    pub calls_late: u64,
    /// Callers that left before the end of their call.
    pub callers_left: u64,
    /// Connections of push callers.
    pub push_callers: u64,
    /// Those of them that a shard ended, by [`CallerEnd`].
    pub push_callers_ended: [u64; CallerEnd::COUNT],
    /// Their requests that were answered, by gRPC status code.
    pub push_requests: [u64; STATUS_CODES],
    /// Their pushes whose result they were not told.
    pub pushes_unknown: u64,
    /// Their pushes that other hosts answered, and hosts that replies counted as unanswered.
    pub elsewhere: [u64; 2],
    /// Messages that were not sent because their call had ended.
    pub messages_skipped: u64,
    /// Times that the control thread stalled.
    pub stalls: u64,
    /// Times that a core stalled.
    pub core_stalls: u64,
    /// Times that the process was stopped.
    pub stops: u64,
    /// Jumps of the clock, of up to an hour.
    pub jumps: u64,
    /// Faults of sockets.
    pub socket_faults: SocketFaults,
    /// Reloads of the configuration.
    pub reloads: u64,
    /// Upgrades; those to another number of shards; those that the other process refused; and paced broadcasts that
    /// continued after an upgrade.
    pub upgrades: [u64; 4],
    /// Deadlines that were postponed because of unread input or a send under way.
    pub postponed: u64,
    /// Slices of crowds: all, those that are shorter because of their bytes, and those of pushes to keys or users.
    pub crowd_slices: [u64; 3],
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away.
    pub refused: u64,
    /// The same, because the process was out of memory.
    pub refused_for_memory: u64,
    /// Connections authenticated.
    pub authenticated: u64,
    /// Tokens renewed, and tokens sent for a renewal that were not accepted.
    pub tokens_renewed: [u64; 2],
    /// Connections that negotiated compression, and pushes that were compressed.
    pub deflated: [u64; 2],
    /// Requests to enter or leave a further room that were refused, by [`RoomRefusal`].
    pub rooms_refused: [u64; RoomRefusal::ALL.len()],
    /// Connections closed, by [`CloseReason`].
    pub closed: [u64; CloseReason::COUNT],
    /// The sum of the tallies of all pushes.
    pub deliveries: Tally,
    /// Deliveries that sockets took.
    pub sent: u64,
    /// Deliveries lost with their connection.
    pub lost: u64,
    /// Deliveries superseded by newer ones.
    pub superseded: u64,
    /// Joins with a position that recovered nothing, and those that recovered.
    pub recoveries: [u64; 2],
    /// Requests for missed pushes that waited for others.
    pub recoveries_delayed: u64,
    /// Sessions that were parked, resumed and expired; pushes that were parked, those that were unsent before, and
    /// those that were resumed.
    pub sessions: [u64; 6],
    /// Pushes that clients were told to have lost, and those that they got later.
    pub gaps: u64,
    /// See [`Summary::gaps`].
    pub repaired: u64,
    /// Pushes that told members who has entered and left, the joins and leaves in them, and times that a client's sum
    /// of these was compared with the members.
    pub presence: [u64; 2],
    /// See [`Summary::presence`].
    pub rosters: u64,
    /// Coalescing windows, and pushes that were sent at their end.
    pub coalesce_windows: u64,
    /// See [`Summary::coalesce_windows`].
    pub coalesced: u64,
    /// Messages that found an inbox full.
    pub mesh_waits: u64,
    /// Turns during a coalesced wait in which input stayed unread.
    pub coalesced_waits: u64,
    /// Lists of connections, and connections in them.
    pub lists: u64,
    /// See [`Summary::lists`].
    pub listed: u64,
    /// Slow clients in top lists.
    pub slow: u64,
    /// Pushes on pages of histories.
    pub kept: u64,
    /// Runs with remote logic.
    pub remote: u64,
    /// The fan-out of a logic service to its comets.
    pub fanout: FanoutSummary,
    /// The calls of remote logic.
    pub logic: LogicSummary,
    /// Lines of the trace log.
    pub traced: u64,
    /// Events that live traces got.
    pub told_live: u64,
    /// A digest of everything that clients received; equal for equal seeds.
    pub digest: u64,
}

impl Summary {
    pub(crate) fn new(limits: &Limits, shards: u16) -> Self {
        let mut summary = Self { runs: 1, ..Self::default() };
        summary.shards[usize::from(shards) - 1] = 1;
        let policy = match limits.slow_consumer {
            SlowConsumer::DropNewest => 0,
            SlowConsumer::DropOldest => 1,
            SlowConsumer::Close => 2,
        };
        summary.policies[policy] = 1;
        summary
    }

    /// Adds the counters of one shard.
    pub(crate) fn add(&mut self, counters: &Counters) {
        self.accepted += counters.accepted_tcp + counters.accepted_websocket;
        self.refused += counters.refused;
        self.push_callers += counters.callers_accepted;
        add_each(&mut self.push_callers_ended, &counters.callers_ended);
        add_each(&mut self.push_requests, &counters.calls);
        self.refused_for_memory += counters.refused_for_memory;
        self.authenticated += counters.authenticated;
        let deflated = [counters.deflated_connections, counters.deflated_messages];
        add_each(&mut self.deflated, &deflated);
        add_each(&mut self.tokens_renewed, &[counters.tokens_renewed, counters.tokens_not_renewed]);
        self.deliveries += counters.deliveries;
        self.sent += counters.sent;
        self.lost += counters.lost;
        self.superseded += counters.superseded;
        add_each(&mut self.recoveries, &counters.recoveries);
        self.recoveries_delayed += counters.recoveries_delayed;
        let Counters { sessions_parked, sessions_resumed, sessions_expired, .. } = *counters;
        let parked = counters.deliveries.parked;
        let pushes = [parked, counters.unsent, counters.resumed];
        add_each(&mut self.sessions, &[sessions_parked, sessions_resumed, sessions_expired]);
        add_each(&mut self.sessions[3..], &pushes);
        self.repaired += counters.repaired;
        add_each(&mut self.presence, &[counters.presence_pushes, counters.presence_changes]);
        self.coalesce_windows += counters.coalesce_windows;
        self.coalesced += counters.coalesced;
        self.mesh_waits += counters.mesh_waits;
        add_each(&mut self.rooms_refused, &counters.rooms_refused);
        add_each(&mut self.closed, &counters.closed);
    }
}

pub(crate) fn add_each(sums: &mut [u64], numbers: &[u64]) {
    for (sum, number) in sums.iter_mut().zip(numbers) {
        *sum += number;
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        add_each(&mut self.shards, &other.shards);
        add_each(&mut self.policies, &other.policies);
        self.calls += other.calls;
        self.calls_inbox_full += other.calls_inbox_full;
        self.calls_late += other.calls_late;
        self.callers_left += other.callers_left;
        self.messages_skipped += other.messages_skipped;
        self.stalls += other.stalls;
        self.core_stalls += other.core_stalls;
        self.stops += other.stops;
        self.jumps += other.jumps;
        add_each(&mut self.upgrades, &other.upgrades);
        self.postponed += other.postponed;
        self.socket_faults.add(&other.socket_faults);
        self.reloads += other.reloads;
        add_each(&mut self.crowd_slices, &other.crowd_slices);
        self.push_callers += other.push_callers;
        add_each(&mut self.push_callers_ended, &other.push_callers_ended);
        add_each(&mut self.push_requests, &other.push_requests);
        self.pushes_unknown += other.pushes_unknown;
        add_each(&mut self.elsewhere, &other.elsewhere);
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.refused_for_memory += other.refused_for_memory;
        self.authenticated += other.authenticated;
        add_each(&mut self.deflated, &other.deflated);
        add_each(&mut self.tokens_renewed, &other.tokens_renewed);
        add_each(&mut self.rooms_refused, &other.rooms_refused);
        add_each(&mut self.closed, &other.closed);
        self.deliveries += other.deliveries;
        self.sent += other.sent;
        self.lost += other.lost;
        self.superseded += other.superseded;
        add_each(&mut self.recoveries, &other.recoveries);
        self.recoveries_delayed += other.recoveries_delayed;
        add_each(&mut self.sessions, &other.sessions);
        self.gaps += other.gaps;
        self.repaired += other.repaired;
        add_each(&mut self.presence, &other.presence);
        self.rosters += other.rosters;
        self.coalesce_windows += other.coalesce_windows;
        self.coalesced += other.coalesced;
        self.mesh_waits += other.mesh_waits;
        self.coalesced_waits += other.coalesced_waits;
        self.lists += other.lists;
        self.listed += other.listed;
        self.slow += other.slow;
        self.kept += other.kept;
        self.remote += other.remote;
        self.fanout += other.fanout;
        self.logic += other.logic;
        self.traced += other.traced;
        self.told_live += other.told_live;
        self.digest ^= other.digest;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, steps, shards, policies, calls, .. } = self;
        writeln!(f, "{runs} runs of {steps} steps; by shards, from 1: {shards:?}")?;
        writeln!(f, "full outbox [drop newest, drop oldest, close]: {policies:?}")?;
        let Self { accepted, refused, authenticated, mesh_waits, .. } = self;
        writeln!(
            f,
            "connections: {accepted} accepted, {refused} refused, {authenticated} authenticated"
        )?;
        let [parked, resumed, expired, pushes, unsent, given_on] = self.sessions;
        writeln!(
            f,
            "sessions: {parked} parked, {resumed} resumed, {expired} expired; {pushes} pushes parked, \
             {unsent} unsent before, {given_on} given on"
        )?;
        let [renewed, not_renewed] = self.tokens_renewed;
        writeln!(f, "tokens: {renewed} renewed, {not_renewed} not taken")?;
        let coalesced_waits = self.coalesced_waits;
        writeln!(
            f,
            "calls: {calls}; messages that waited for an inbox: {mesh_waits}; \
             coalesced waits: {coalesced_waits}"
        )?;
        let Self { calls_inbox_full, calls_late, callers_left, messages_skipped, stalls, .. } =
            self;
        writeln!(
            f,
            "calls that ended early: {calls_inbox_full} before a full inbox, {calls_late} late, \
             {callers_left} left; messages skipped: {messages_skipped}; control stalled: {stalls}"
        )?;
        let Self { push_callers, push_callers_ended, push_requests, pushes_unknown, .. } = self;
        writeln!(
            f,
            "push callers: {push_callers}, ended {push_callers_ended:?}; requests by status: \
             {push_requests:?}; pushes without an answer: {pushes_unknown}"
        )?;
        let [told, unanswered] = self.elsewhere;
        writeln!(
            f,
            "their pushes that other hosts told of: {told}, without an answer: {unanswered}"
        )?;
        let Self { core_stalls, stops, jumps, postponed, .. } = self;
        writeln!(
            f,
            "cores stalled: {core_stalls}; process stopped: {stops}; jumps of the clock: {jumps}; deadlines put off: {postponed}"
        )?;
        let Self { socket_faults, reloads, .. } = self;
        writeln!(f, "{socket_faults}")?;
        writeln!(f, "reloads: {reloads}")?;
        let [upgrades, with_others, refused, paced] = self.upgrades;
        writeln!(
            f,
            "upgrades: {upgrades}, {with_others} to another number of shards; refused: {refused}; paced broadcasts \
             that went on: {paced}"
        )?;
        let [slices, short, of_keys] = self.crowd_slices;
        writeln!(
            f,
            "slices of crowds: {slices}; shorter for their bytes: {short}; of pushes to keys: {of_keys}"
        )?;
        let Self { lists, listed, slow, kept, .. } = self;
        writeln!(f, "lists of connections: {lists}, with {listed} in them; slow clients: {slow}")?;
        writeln!(f, "pushes on pages of what rooms keep: {kept}")?;
        let Self { remote, logic, traced, told_live, .. } = self;
        writeln!(f, "remote logic: {remote} runs; traced lines: {traced}; told live: {told_live}")?;
        writeln!(f, "{logic}")?;
        writeln!(f, "{}", self.fanout)?;
        let [connections, pushes] = self.deflated;
        writeln!(f, "compression: {connections} connections, {pushes} pushes compressed")?;
        let Self { coalesce_windows, coalesced, .. } = self;
        writeln!(f, "coalesced: {coalesced} pushes in {coalesce_windows} windows")?;
        let Self { recoveries: [not_recovered, recovered], recoveries_delayed, .. } = self;
        let Self { gaps, repaired, .. } = self;
        writeln!(
            f,
            "histories: {recovered} joins recovered, {not_recovered} did not, {recoveries_delayed} requests waited; told as \
             lost: {gaps}; repaired: {repaired}"
        )?;
        let Self { presence: [pushes, changes], rosters, .. } = self;
        writeln!(
            f,
            "presence: {changes} joins and leaves in {pushes} pushes; lists compared: {rosters}"
        )?;
        let Self { deliveries, sent, lost, superseded, .. } = self;
        let Tally { matched, queued, dropped, .. } = deliveries;
        writeln!(f, "deliveries: {matched} matched, {queued} queued")?;
        writeln!(f, "queued: {sent} sent, {lost} lost, {superseded} superseded")?;
        writeln!(f, "dropped:")?;
        for reason in DropReason::ALL {
            writeln!(f, "  {:<22}{:>9}", reason.label(), dropped[*reason as usize])?;
        }
        writeln!(f, "closed:")?;
        for reason in CloseReason::ALL {
            writeln!(f, "  {:<22}{:>9}", reason.label(), self.closed[*reason as usize])?;
        }
        Ok(())
    }
}
