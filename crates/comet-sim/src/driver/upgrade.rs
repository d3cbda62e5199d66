//! A driver whose shard is handed over to that of another process.

use std::collections::BTreeMap;

use comet_core::{ConnId, LeftBehind, Obstacles, TakeOver};
use comet_handover as handed;

use crate::env::{Env, SocketTotals};
use crate::stall_log::StallLog;

use super::Driver;

/// What a driver leaves to those of another process.
pub(crate) struct Remains {
    pub(crate) shard: handed::Shard,
    /// The peers of its connections, in their order, and what these were called.
    pub(crate) peers: Vec<(usize, ConnId)>,
    /// Of all its sockets.
    pub(crate) totals: SocketTotals,
    pub(crate) former: Driver,
}

impl Driver {
    /// Nothing new begins. The drain under way is over, because its clients are closed for the upgrade.
    pub(crate) fn freeze(&mut self) {
        self.is_frozen = true;
        self.drain = None;
    }

    /// Who cannot be handed over is closed in its next turn.
    pub(crate) fn close_left_behind(&mut self) {
        self.closes_left_behind = true;
        self.must_retry = true;
    }

    /// Whether nothing is under way but sends, which can be taken back.
    pub(crate) fn may_stop(&mut self) -> bool {
        self.shard.begin_hand_over();
        let obstacles = self.shard.obstacles();
        let has_left = self.shard.left_behind().any(|(_, why)| why != LeftBehind::Closing);
        Obstacles { transmits: 0, ..obstacles }.is_none() && self.auths.is_empty() && !has_left
    }

    /// Takes back all sends, and hands the shard over.
    pub(crate) fn hand_over(mut self, env: &mut Env) -> Result<Remains, String> {
        for peer in self.peers().collect::<Vec<_>>() {
            // Some are further by now. Those that have failed are for the other process to find.
            if !env.peers[peer].socket.is_broken() && env.rng.percent(50) {
                self.send(env, peer)?;
            }
            let entry = &mut env.peers[peer];
            if entry.socket.take_back() {
                self.shard.handle_send_cancelled(entry.conn.expect("accepted"));
            }
        }
        if !self.shard.obstacles().may_hand_over() {
            return Err(format!("under way at the end: {}", self.shard.obstacles()));
        }
        let (shard, conns) = self.shard.hand_over();
        let peers: Vec<_> = conns.iter().map(|conn| (self.slots[&conn.slot], *conn)).collect();
        let totals = self.socket_totals(env);
        for peer in self.peers() {
            if !peers.iter().any(|(moved, _)| *moved == peer) {
                let entry = &mut env.peers[peer];
                if entry.closed.is_none() {
                    return Err(format!("peer {peer} is left behind and was not closed"));
                }
                entry.socket.abandon();
            }
        }
        // The way of the format: it has to say everything.
        let shard = handed::Shard::decode(&shard.encode()).map_err(|fault| fault.to_string())?;
        Ok(Remains { shard, peers, totals, former: self })
    }

    /// Goes on with a part of what all drivers have left. `totals` are those of the sockets that the counters of the
    /// shard have counted. Returns who is called what.
    pub(crate) fn take_over(
        &mut self,
        env: &mut Env,
        (part, peers): (TakeOver, Vec<(usize, ConnId)>),
        totals: SocketTotals,
    ) -> BTreeMap<ConnId, ConnId> {
        self.shard.handle_time(env.now);
        let conns = self.shard.take_over(part);
        let mut renamed = BTreeMap::new();
        self.released = totals;
        for (conn, (peer, former)) in conns.into_iter().zip(peers) {
            env.peers[peer].conn = Some(conn);
            self.hold(env, peer, conn);
            let mut mine = SocketTotals::default();
            mine.add(&env.peers[peer]);
            self.released.subtract(mine);
            renamed.insert(former, conn);
        }
        let stalled_ms = self.shard.counters().stalled_millis;
        self.stalls = StallLog::after(env.now, stalled_ms);
        self.ready_since = Some(env.now);
        self.message_at = env.now;
        self.must_retry = true;
        renamed
    }

    /// Counts what `former` has counted beside its shard.
    pub(crate) fn add_counts(&mut self, former: &Self) {
        self.spared += former.spared;
        self.coalesced_waits += former.coalesced_waits;
        self.listings.lists += former.listings.lists;
        self.listings.listed += former.listings.listed;
        self.listings.slow += former.listings.slow;
        self.crowds.add(&former.crowds);
    }
}
