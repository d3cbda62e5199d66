//! The hand-over of a driver's shard to another process.

use std::collections::BTreeMap;
use std::rc::Rc;

use comet_core::{ConnId, LeftBehind, Obstacles, Report, TakeOver};

use crate::env::{Env, SocketTotals};
use crate::source::address;
use crate::stall_log::StallLog;

use super::Driver;

/// The state of a shard for another process.
pub(crate) struct FrozenShard {
    pub(crate) bytes: Vec<u8>,
    /// The peers of its connections, in order, with their ids in this process.
    pub(crate) peers: Vec<(usize, ConnId)>,
    /// Lines of the trace log, for the control of this process if the hand-over fails.
    reports: Vec<Report>,
}

impl Driver {
    /// Begins nothing new. A drain under way is over, because the upgrade closes its clients.
    pub(crate) fn freeze(&mut self, holds_input: bool) {
        (self.is_frozen, self.holds_input) = (true, holds_input);
        self.drain = None;
        if holds_input {
            self.shard.hold_input();
        }
    }

    /// Makes the shard read the held input in the following turns. Deadlines are checked again a little later.
    fn release_input(&mut self, env: &mut Env) {
        self.holds_input = false;
        self.shard.release_input();
        for peer in self.peers() {
            // The held input is read from here on.
            let entry = &mut env.peers[peer];
            (entry.received_at, entry.postponed_at) = (env.now, Some(env.now));
        }
    }

    /// Closes the connections that cannot be handed over, in the next turn.
    pub(crate) fn close_left_behind(&mut self) {
        self.closes_left_behind = true;
        self.must_retry = true;
    }

    /// Whether nothing is under way except sends, which can be taken back.
    pub(crate) fn may_stop(&mut self) -> bool {
        self.shard.begin_hand_over();
        let obstacles = self.shard.obstacles();
        let has_left = self.shard.left_behind().any(|(_, why)| why != LeftBehind::Closing);
        Obstacles { transmits: 0, ..obstacles }.is_none() && self.auths.is_empty() && !has_left
    }

    /// Takes back all sends, and offers the state of the shard.
    pub(crate) fn offer(&mut self, env: &mut Env) -> Result<FrozenShard, String> {
        self.tell_time(env)?;
        for peer in self.peers().collect::<Vec<_>>() {
            // Some sends have progressed. The other process will find those that failed.
            if !env.peers[peer].socket.is_broken() && env.rng.percent(50) {
                self.send(env, peer)?;
            }
            let entry = &mut env.peers[peer];
            if entry.socket.take_back() {
                self.shard.handle_send_cancelled(entry.conn.expect("accepted"));
            }
        }
        // These are lines of the trace log about the sends. They come too late for control; no other report may.
        let reports: Vec<Report> = std::iter::from_fn(|| self.shard.poll_report()).collect();
        if let Some(report) = reports.iter().find(|report| !matches!(report, Report::Trace(_))) {
            return Err(format!("a report at the end: {report:?}"));
        }
        if !self.shard.obstacles().may_hand_over() {
            return Err(format!("under way at the end: {}", self.shard.obstacles()));
        }
        let (shard, conns) = self.shard.hand_over();
        let peers = conns.iter().map(|conn| (self.slots[&conn.slot], *conn)).collect();
        Ok(FrozenShard { bytes: shard.encode().to_vec(), peers, reports })
    }

    /// The hand-over has failed: the shard continues as if nothing had happened.
    pub(crate) fn thaw(&mut self, env: &mut Env, offer: FrozenShard) -> Result<(), String> {
        self.is_frozen = false;
        self.release_input(env);
        self.must_retry = true;
        self.ready_since.get_or_insert(env.now);
        for report in offer.reports {
            env.control.offer(report).map_err(|report| format!("no space for {report:?}"))?;
        }
        Ok(())
    }

    /// The other process has taken the sockets of the peers in `taken`. Returns the totals of all sockets of this
    /// driver.
    pub(crate) fn release_sockets(
        &self,
        env: &mut Env,
        taken: &[(usize, ConnId)],
    ) -> Result<SocketTotals, String> {
        let totals = self.socket_totals(env);
        for peer in self.peers() {
            if !taken.iter().any(|(moved, _)| *moved == peer) {
                let entry = &mut env.peers[peer];
                if entry.closed.is_none() {
                    return Err(format!("peer {peer} is left behind and was not closed"));
                }
                entry.socket.abandon();
            }
        }
        Ok(totals)
    }

    /// Takes over a part of what all former drivers have left. `totals` are those of the sockets that the shard's
    /// counters include, `stalls` those of all former drivers. Returns the new id of each connection.
    pub(crate) fn take_over(
        &mut self,
        env: &mut Env,
        (part, peers): (TakeOver, Vec<(usize, ConnId)>),
        (totals, stalls): (SocketTotals, Rc<[StallLog]>),
    ) -> BTreeMap<ConnId, ConnId> {
        self.shard.handle_time(env.now);
        let conns = self.shard.take_over(part);
        let mut renamed = BTreeMap::new();
        self.released = totals;
        for (conn, (peer, former)) in conns.into_iter().zip(peers) {
            env.peers[peer].conn = Some(conn);
            self.hold(env, peer, conn);
            if self.shard.limits().needs_addresses() {
                self.shard.adopt_source(conn, address(peer));
            }
            let mut mine = SocketTotals::default();
            mine.add(&env.peers[peer]);
            self.released.subtract(mine);
            renamed.insert(former, conn);
        }
        self.release_input(env);
        let stalled_ms = self.shard.counters().stalled_millis;
        self.stalls = StallLog::after(stalls, env.now, stalled_ms);
        self.ready_since = Some(env.now);
        self.message_at = env.now;
        self.must_retry = true;
        renamed
    }

    /// Keeps the time since which sends that `former` could not make have waited.
    pub(crate) fn keep_waiting(&mut self, former: &Self) {
        self.ready_since = [self.ready_since, former.ready_since].into_iter().flatten().min();
    }

    /// Adds the counts that `former` has kept in addition to its shard.
    pub(crate) fn add_counts(&mut self, former: &Self) {
        self.postponed += former.postponed;
        self.coalesced_waits += former.coalesced_waits;
        self.listings.lists += former.listings.lists;
        self.listings.listed += former.listings.listed;
        self.listings.slow += former.listings.slow;
        self.crowds.add(&former.crowds);
    }
}
