//! Counts the slices of crowds by kind, and checks that each keeps its limits.

use comet_core::{CrowdSlice, Limits};

/// The numbers of slices of one shard.
#[derive(Clone, Copy, Default)]
pub(crate) struct CrowdSlices {
    all: u64,
    /// Those that have fewer connections because of their bytes.
    short: u64,
    /// Those of pushes to keys or users.
    listed: u64,
}

impl CrowdSlices {
    /// Counts `slice`.
    ///
    /// # Errors
    /// If it has more connections than `limits` allow.
    pub(crate) fn note(&mut self, slice: CrowdSlice, limits: &Limits) -> Result<(), String> {
        let CrowdSlice { connections, bytes, is_listed, .. } = slice;
        let by_bytes = limits.crowd_bytes / bytes.max(1);
        if connections > limits.crowd_slice.min(by_bytes).max(1) {
            return Err(format!("{slice:?} is too much for a turn"));
        }
        self.all += 1;
        self.short += u64::from(connections > 0 && by_bytes < limits.crowd_slice);
        self.listed += u64::from(is_listed);
        Ok(())
    }

    /// Adds the numbers of another shard.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { all, short, listed } = *other;
        self.all += all;
        self.short += short;
        self.listed += listed;
    }

    /// All slices, those that are shorter because of their bytes, and those of pushes to keys or users.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [self.all, self.short, self.listed]
    }
}
