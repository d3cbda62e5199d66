//! One call to the shards, as the checker accounts for it.

use std::sync::Arc;

use comet_core::{DropReason, Millis, ShardId, Tally};
use comet_hub::CallerId;

use crate::wire::Kind;

/// How a call ended for its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// With everything that was reported.
    Answered,
    /// After its limit, with a message still before a full inbox.
    InboxFull,
    /// After its limit, with reports missing.
    Late,
    /// The caller has left.
    Left,
}

/// What the reports of a call add up to. Unlike the hub this goes on after the call has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) tally: Tally,
    pub(crate) scheduled: u64,
    /// Shards that had too many paced broadcasts under way.
    pub(crate) busy: u32,
    pub(crate) snapshots: usize,
    pub(crate) rooms: usize,
    /// Lists of connections, and those that were refused.
    pub(crate) lists: usize,
}

/// A call, until the next quiet point.
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) caller: CallerId,
    pub(crate) kind: Kind,
    pub(crate) operation: i32,
    pub(crate) collapse_id: Option<Arc<str>>,
    /// Its connections are closed instead.
    pub(crate) is_kick: bool,
    pub(crate) keys: Vec<Box<str>>,
    pub(crate) users: Vec<i64>,
    pub(crate) limit_ms: u64,
    pub(crate) deadline: Millis,
    /// Shards whose message is not in their inbox yet, in their order.
    pub(crate) unposted: Vec<ShardId>,
    /// Messages that an inbox took; each is answered with one report.
    pub(crate) posted: u64,
    /// Reports that came, partial tallies aside.
    pub(crate) reported: u64,
    /// Partial tallies announced that have not come; below zero, those that came before they were
    /// announced.
    pub(crate) partials: i64,
    pub(crate) sums: Sums,
    pub(crate) end: Option<End>,
}

impl Call {
    /// Every message that was posted is answered in full.
    pub(crate) fn is_settled(&self) -> bool {
        self.reported == self.posted && self.partials == 0
    }

    /// Every message was posted and answered.
    pub(crate) fn is_complete(&self) -> bool {
        self.unposted.is_empty() && self.is_settled()
    }

    /// Reports that its caller still waits for.
    pub(crate) fn missing(&self) -> u64 {
        let posted = self.posted + self.unposted.len() as u64;
        (posted - self.reported).saturating_add_signed(self.partials)
    }

    /// What must hold once all reports are in, whatever happened on the way.
    pub(crate) fn check(&self) -> Result<(), String> {
        let tally = &self.sums.tally;
        let Tally { matched, absent, parked, .. } = *tally;
        let is_sound = match self.kind {
            // Nobody or one connection holds a key, or its session is parked.
            Kind::Keys => matched + absent + parked == self.keys.len() as u64,
            Kind::Users => absent <= self.users.len() as u64,
            Kind::Room(_) | Kind::All => absent + parked == 0,
            Kind::Paced => *tally == Tally::default(),
        };
        let (id, kind) = (self.id, self.kind);
        is_sound.then_some(()).ok_or_else(|| format!("call {id} to {kind:?} adds up to {tally:?}"))
    }

    /// Whether `newer` may have taken its place.
    pub(crate) fn may_be_superseded_by(&self, newer: &Self) -> bool {
        let is_state = self.collapse_id.is_some() && self.collapse_id == newer.collapse_id;
        newer.id > self.id && newer.kind == self.kind && newer.posted > 0 && is_state
    }

    /// Connections that a newer push was to be for instead.
    pub(crate) fn superseded(&self) -> u64 {
        self.sums.tally.dropped[DropReason::Superseded as usize]
    }

    /// Its numbers are no count of connections: a message of it was never sent, or a home drops in the mesh
    /// for as many members of a room as were last reported to it, or a refused broadcast reaches nobody.
    pub(crate) fn is_estimated(&self) -> bool {
        let in_mesh = self.sums.tally.dropped[DropReason::MeshFull as usize];
        !self.unposted.is_empty()
            || self.sums.busy > 0
            || in_mesh > 0 && matches!(self.kind, Kind::Room(_))
    }
}
