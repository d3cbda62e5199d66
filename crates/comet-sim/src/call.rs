//! One call to the shards: what its reports have added up to, and when it is complete.

use comet_core::{DropReason, Tally};

use crate::wire::Kind;

/// A call, until the next quiet point.
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) operation: i32,
    pub(crate) keys: Vec<Box<str>>,
    pub(crate) users: Vec<i64>,
    /// Reports still to come for messages that were sent.
    pub(crate) missing: u64,
    /// Partial tallies announced that have not come; below zero, partials that came before they were announced.
    pub(crate) partials: i64,
    pub(crate) tally: Tally,
    /// A shard had too many paced broadcasts under way.
    pub(crate) is_refused: bool,
}

impl Call {
    pub(crate) fn is_complete(&self) -> bool {
        self.missing == 0 && self.partials == 0
    }

    /// What must hold once all reports are in, whatever happened on the way.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Tally { matched, absent, .. } = self.tally;
        let is_sound = match self.kind {
            // Nobody or one connection holds a key.
            Kind::Keys => matched + absent == self.keys.len() as u64,
            Kind::Users => absent <= self.users.len() as u64,
            Kind::Room(_) | Kind::All => absent == 0,
            Kind::Paced => self.tally == Tally::default(),
        };
        let (id, kind, tally) = (self.id, self.kind, &self.tally);
        is_sound.then_some(()).ok_or_else(|| format!("call {id} to {kind:?} adds up to {tally:?}"))
    }

    /// Connections that were meant and did not get it, except by their own wish.
    pub(crate) fn dropped_unwanted(&self) -> u64 {
        self.tally.dropped_total() - self.tally.dropped[DropReason::Filtered as usize]
    }

    /// Its numbers are no count of connections: a home drops in the mesh for as many members of a room
    /// as were last reported to it, and a refused broadcast reaches nobody.
    pub(crate) fn is_estimated(&self) -> bool {
        let in_mesh = self.tally.dropped[DropReason::MeshFull as usize];
        self.is_refused || in_mesh > 0 && matches!(self.kind, Kind::Room(_))
    }
}

pub(crate) fn check_sum(tally: &Tally) -> Result<(), String> {
    let is_sound = tally.matched == tally.queued + tally.dropped_total();
    is_sound.then_some(()).ok_or_else(|| format!("matched is not queued and dropped: {tally:?}"))
}
