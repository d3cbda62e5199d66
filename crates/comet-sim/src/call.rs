//! One call to the shards, in the checker's account.

use std::sync::Arc;

use comet_core::{DropReason, Millis, ShardId, Tally};
use comet_hub::CallerId;

use crate::wire::Kind;

/// How a call ended for its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// With everything that was reported.
    Answered,
    /// At its deadline, with a message still waiting for a full inbox.
    InboxFull,
    /// At its deadline, with reports missing.
    Late,
    /// The caller has left.
    Left,
}

/// The sum of the reports of a call. Unlike the hub's, it is continued after the call has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) tally: Tally,
    pub(crate) scheduled: u64,
    /// The number of shards that had too many paced broadcasts under way.
    pub(crate) busy: u32,
    pub(crate) snapshots: usize,
    pub(crate) rooms: usize,
    /// The number of lists of connections, including refused ones.
    pub(crate) lists: usize,
}

/// A call, until the next quiet point.
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) caller: CallerId,
    pub(crate) kind: Kind,
    pub(crate) operation: i32,
    pub(crate) collapse_id: Option<Arc<str>>,
    /// It is a kick: connections are closed instead.
    pub(crate) is_kick: bool,
    pub(crate) keys: Vec<Box<str>>,
    pub(crate) users: Vec<i64>,
    pub(crate) limit_ms: u64,
    pub(crate) deadline: Millis,
    /// Shards whose inbox has not taken the message yet, in order.
    pub(crate) unposted: Vec<ShardId>,
    /// The number of messages that an inbox took. Each is answered with one report.
    pub(crate) posted: u64,
    /// The number of reports that arrived, without partial tallies.
    pub(crate) reported: u64,
    /// The number of announced partial tallies that have not arrived. Negative if some arrived before they were
    /// announced.
    pub(crate) partials: i64,
    pub(crate) sums: Sums,
    pub(crate) end: Option<End>,
}

impl Call {
    /// Whether every posted message is answered in full.
    pub(crate) fn is_settled(&self) -> bool {
        self.reported == self.posted && self.partials == 0
    }

    /// Whether every message was posted and answered.
    pub(crate) fn is_complete(&self) -> bool {
        self.unposted.is_empty() && self.is_settled()
    }

    /// The number of reports that its caller still waits for.
    pub(crate) fn missing(&self) -> u64 {
        let posted = self.posted + self.unposted.len() as u64;
        (posted - self.reported).saturating_add_signed(self.partials)
    }

    /// Checks what must hold once all reports are in, whatever happened before.
    pub(crate) fn check(&self) -> Result<(), String> {
        let tally = &self.sums.tally;
        let Tally { matched, absent, parked, .. } = *tally;
        let is_sound = match self.kind {
            // A key is held by at most one connection, or its session is parked.
            Kind::Keys => matched + absent + parked == self.keys.len() as u64,
            Kind::Users => absent <= self.users.len() as u64,
            Kind::Room(_) | Kind::All => absent + parked == 0,
            Kind::Paced => *tally == Tally::default(),
        };
        let (id, kind) = (self.id, self.kind);
        is_sound.then_some(()).ok_or_else(|| format!("call {id} to {kind:?} adds up to {tally:?}"))
    }

    /// Whether `newer` may have replaced it.
    pub(crate) fn may_be_superseded_by(&self, newer: &Self) -> bool {
        let is_state = self.collapse_id.is_some() && self.collapse_id == newer.collapse_id;
        newer.id > self.id && newer.kind == self.kind && newer.posted > 0 && is_state
    }

    /// The connections for which a newer push was offered instead.
    pub(crate) fn superseded(&self) -> u64 {
        self.sums.tally.dropped[DropReason::Superseded as usize]
    }

    /// Whether its numbers do not count connections exactly: a message of it was never sent, a home counted drops in
    /// the mesh by the last reported number of members, or a refused broadcast reached nobody.
    pub(crate) fn is_estimated(&self) -> bool {
        let in_mesh = self.sums.tally.dropped[DropReason::MeshFull as usize];
        !self.unposted.is_empty()
            || self.sums.busy > 0
            || in_mesh > 0 && matches!(self.kind, Kind::Room(_))
    }
}
