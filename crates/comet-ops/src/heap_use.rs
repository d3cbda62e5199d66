//! The allocator's counts. `process.rs` has the kernel's view of the same memory.

use tikv_jemalloc_ctl::{Result, background_thread, epoch, stats};

use crate::exposition::{Exposition, Kind};

/// Has threads of the allocator return unused memory to the kernel. Otherwise memory is returned only while a thread
/// allocates, so a thread that sleeps after a peak keeps its memory.
pub fn enable_background_purge() {
    if let Err(error) = background_thread::write(true) {
        log::warn!("the allocator has no threads, memory of a peak stays longer: {error}");
    }
}

/// Memory that this process has allocated and not freed, bytes.
///
/// # Errors
/// If the allocator does not count.
pub fn allocated_bytes() -> std::io::Result<u64> {
    let heap = HeapUse::read().map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(heap.allocated_bytes)
}

/// The heap at one moment.
pub(crate) struct HeapUse {
    /// Allocated and not freed.
    allocated_bytes: u64,
    /// In RAM: the allocated memory, the allocator's own, and memory not yet returned to the kernel.
    resident_bytes: u64,
}

impl HeapUse {
    /// # Errors
    /// If the allocator does not count.
    pub(crate) fn read() -> Result<Self> {
        // Updates the statistics that are read below.
        epoch::advance()?;
        Ok(Self {
            allocated_bytes: stats::allocated::read()? as u64,
            resident_bytes: stats::resident::read()? as u64,
        })
    }

    /// Adds the families.
    pub(crate) fn expose(&self, page: &mut Exposition) {
        page.family(
            "comet_heap_allocated_bytes",
            Kind::Gauge,
            "Memory that comet has allocated and not freed.",
        )
        .sample(self.allocated_bytes);
        page.family(
            "comet_heap_resident_bytes",
            Kind::Gauge,
            "RAM of the allocator, including freed memory that the kernel has not got back.",
        )
        .sample(self.resident_bytes);
    }
}
