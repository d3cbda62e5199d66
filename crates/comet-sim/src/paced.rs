//! The checker of paced broadcasts: each ends once on every shard that has it, and its tally is added up. Upgrades
//! change the shards, but not the broadcasts.

use std::collections::BTreeSet;

use comet_core::{CallId, ShardId, Tally};

/// The paced broadcasts that have not ended, and the sum of the tallies of the others.
#[derive(Default)]
pub(crate) struct PacedChecker {
    under_way: BTreeSet<(CallId, ShardId)>,
    pub(crate) total: Tally,
    /// The number of broadcasts that continued in another process.
    pub(crate) moved: u64,
}

impl PacedChecker {
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    pub(crate) fn begin(&mut self, call: CallId, shard: ShardId) -> Result<(), String> {
        let is_new = self.under_way.insert((call, shard));
        is_new.then_some(()).ok_or_else(|| format!("{call:?} is paced on {shard:?} twice"))
    }

    pub(crate) fn end(&mut self, call: CallId, shard: ShardId, tally: Tally) -> Result<(), String> {
        if !self.under_way.remove(&(call, shard)) {
            return Err(format!("{call:?} ends on {shard:?}, where it is not paced"));
        }
        self.total += tally;
        Ok(())
    }

    /// Other shards continue `parts`.
    pub(crate) fn upgrade(
        &mut self,
        parts: impl Iterator<Item = (ShardId, CallId)>,
    ) -> Result<(), String> {
        let parts: BTreeSet<_> = parts.map(|(shard, call)| (call, shard)).collect();
        let calls = |all: &BTreeSet<(CallId, ShardId)>| -> BTreeSet<CallId> {
            all.iter().map(|(call, _)| *call).collect()
        };
        let (before, after) = (calls(&self.under_way), calls(&parts));
        if before != after {
            return Err(format!("paced before the upgrade: {before:?}, after it: {after:?}"));
        }
        self.moved += after.len() as u64;
        self.under_way = parts;
        Ok(())
    }
}
