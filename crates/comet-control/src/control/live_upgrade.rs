//! The part of control in a live upgrade: callers are held back while another process takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use comet_core::{Blocklist, CallId, Limits, ShardId};
use comet_hub::PacedBroadcast;
use comet_hub::cluster::ClusterHandOver;
use comet_serve::{NamedSocket, end_upgrade};

use super::Control;
use crate::cluster::STREAM_CALLER;
use crate::hub::PacedMove;

impl Control {
    /// The listening sockets, for another process.
    #[must_use]
    pub fn sockets(&self) -> &[NamedSocket] {
        &self.sockets
    }

    /// Has the callers leave, each after its calls, because another process will serve them. Returns at once;
    /// [`Control::callers`] returns how many are left.
    ///
    /// # Errors
    /// Why another process cannot take over, in words. Nothing has changed then.
    pub fn begin_upgrade(&self) -> Result<(), String> {
        self.check_upgrade()?;
        match self.node.begin_upgrade() {
            true => Ok(()),
            false => Err("it is starting, draining or ending".to_owned()),
        }
    }

    /// Whether another process could take over now.
    ///
    /// # Errors
    /// Why it could not, in words.
    pub fn check_upgrade(&self) -> Result<(), String> {
        if self.node.is_draining() {
            return Err("it drains".into());
        }
        Ok(())
    }

    /// The cores are frozen, for at most `time`. Until then their silence must not make health or the service manager
    /// end this process, and with it the connections.
    pub fn suspend_liveness(&self, time: Duration) {
        self.liveness.suspend(time);
    }

    /// Accepts callers: again after [`Control::begin_upgrade`], or for the first time in a process that has taken over.
    /// The cores take turns again.
    pub fn end_upgrade(&self) {
        self.liveness.resume();
        end_upgrade(&self.phase);
        if let Some(cluster) = &self.cluster {
            cluster.release();
        }
    }

    /// Connections of callers, at all addresses.
    #[must_use]
    pub fn callers(&self) -> usize {
        self.gates.read().iter().map(|gate| gate.connections).sum()
    }

    /// Calls of callers to shards that have not ended. Calls of the shared stream continue until it is held.
    #[must_use]
    pub fn calls_under_way(&self) -> usize {
        self.hub.calls_beside(STREAM_CALLER)
    }

    /// Messages on their way to the shards.
    #[must_use]
    pub fn messages_under_way(&self) -> usize {
        self.hub.depths().into_iter().sum()
    }

    /// Whether there may be other hosts.
    #[must_use]
    pub fn has_hosts(&self) -> bool {
        self.cluster.is_some()
    }

    /// Holds pushes of other hosts until [`Control::end_upgrade`] or [`Control::withdraw`].
    pub fn hold_hosts(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.hold();
        }
    }

    /// Whether all pushes of other hosts that the former process held have arrived. Nothing can be held before that.
    #[must_use]
    pub fn has_taken_over_hosts(&self) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.has_taken_over())
    }

    /// Number of pushes of other hosts that may still come to the shards. `None`: any number, because they are not held
    /// yet.
    #[must_use]
    pub fn pushes_of_hosts(&self) -> Option<usize> {
        self.cluster.as_ref().map_or(Some(0), |cluster| cluster.pushes())
    }

    /// Lets another process continue for this host, with the pushes that it holds.
    pub fn withdraw(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.withdraw();
        }
    }

    /// The counters of the process itself, in the form that [`comet_ops::carry`] takes.
    #[must_use]
    pub fn counters(&self) -> String {
        self.monitor.counters_of_process()
    }

    /// The state about other hosts that the continuing process needs.
    #[must_use]
    pub fn hosts(&self) -> Option<ClusterHandOver> {
        self.cluster.as_ref().map(|cluster| cluster.hand_over())
    }

    /// Continues for another process of this host, with members of these rooms. It connects at
    /// [`Control::connect_hosts`].
    pub fn take_over_hosts(
        &self,
        handed: ClusterHandOver,
        rooms: impl IntoIterator<Item = Arc<str>>,
    ) {
        if let Some(cluster) = &self.cluster {
            cluster.take_over(handed, rooms.into_iter().collect());
        }
    }

    /// The former process is ending: logic may hear from both processes for some seconds.
    pub fn take_over_logic(&self) {
        if let Some(logic) = &self.logic {
            logic.take_over();
        }
    }

    /// Makes this process this host, and has it connect to the others. Returns at once.
    pub fn connect_hosts(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.connect();
        }
    }

    /// Whether pushes of callers reach other hosts. True as well if there are no other hosts.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.is_connected())
    }

    /// Reports of shards that this process has not read.
    #[must_use]
    pub fn reports_under_way(&self) -> usize {
        self.hub.unread_reports()
    }

    /// The paced broadcasts, for the continuing process. Every report of the shards must have been read.
    #[must_use]
    pub fn paced(&self) -> Vec<PacedMove> {
        let paced = self.hub.paced().into_iter();
        let moved = |(call, age, broadcast): (CallId, Duration, PacedBroadcast)| {
            let PacedBroadcast { operation, speed, name, tally, .. } = broadcast;
            PacedMove { call, operation, speed, name, age, tally }
        };
        paced.map(moved).collect()
    }

    /// Continues the paced broadcasts of another process. `parts` contains the shards on which each has not ended.
    pub fn take_over_paced(
        &self,
        paced: Vec<PacedMove>,
        parts: impl IntoIterator<Item = (ShardId, CallId)>,
    ) {
        let mut shards: BTreeMap<CallId, BTreeSet<ShardId>> = BTreeMap::new();
        for (shard, call) in parts {
            shards.entry(call).or_default().insert(shard);
        }
        for moved in paced {
            let shards = shards.remove(&moved.call).unwrap_or_default();
            self.hub.take_over_paced(&moved, shards);
        }
    }

    /// Takes over from another process: the ids of its calls up to `last_call`, and the networks that it has blocked.
    pub fn take_over(&self, last_call: u64, blocklist: Blocklist) {
        self.hub.go_on_after(CallId(last_call));
        if !blocklist.is_empty() {
            self.hub.configure(|limits| Limits { blocklist, ..limits });
            self.node.look_at_blocks();
        }
    }

    /// The blocked networks, for the continuing process.
    #[must_use]
    pub fn blocks(&self) -> Blocklist {
        self.hub.limits().blocklist.clone()
    }

    /// The id of the latest call, for the continuing process.
    #[must_use]
    pub fn last_call(&self) -> u64 {
        self.hub.last_call().0
    }
}
