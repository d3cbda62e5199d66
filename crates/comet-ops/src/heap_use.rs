//! The allocator's counts. The kernel's view of the same memory is in `process.rs`.

use tikv_jemalloc_ctl::{Result, background_thread, epoch, stats};

use crate::exposition::{Exposition, Kind};

/// Has threads of the allocator give unused memory back to the kernel. Without them it is given back while a
/// thread allocates: one that sleeps after a peak keeps what it had.
pub fn give_memory_back() {
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
    /// Asked for and not given back.
    allocated_bytes: u64,
    /// In RAM: this, what the allocator needs itself, and what it has not given back to the kernel yet.
    resident_bytes: u64,
}

impl HeapUse {
    /// # Errors
    /// If the allocator does not count.
    pub(crate) fn read() -> Result<Self> {
        // Sums the arenas up; what follows reads the sums.
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
