//! Slices of crowds: how many of which kind there were, and that each keeps its bounds.

use comet_core::{CrowdSlice, Limits};

/// Slices of one shard.
#[derive(Clone, Copy, Default)]
pub(crate) struct CrowdSlices {
    all: u64,
    /// Those that their bytes make shorter.
    short: u64,
    /// Those of pushes to keys or users.
    listed: u64,
}

impl CrowdSlices {
    /// Counts `slice`.
    ///
    /// # Errors
    /// It has more connections than `limits` allow.
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

    /// Adds those of another shard.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { all, short, listed } = *other;
        self.all += all;
        self.short += short;
        self.listed += listed;
    }

    /// All, those that their bytes make shorter, and those of pushes to keys or users.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [self.all, self.short, self.listed]
    }
}
