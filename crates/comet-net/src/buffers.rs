//! The provided-buffer ring: receive buffers that the kernel takes when bytes arrive, so that an
//! idle connection holds none.
#![allow(unsafe_code, reason = "the kernel reads the ring and writes the buffers")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::ids::BufferId;

const PAGE: usize = 4096;

/// `count` buffers of `size` bytes, and the ring that offers them to the kernel.
pub(crate) struct Buffers {
    /// `count` entries. The tail, which the kernel reads, is part of the first
    /// (`io_uring_buf_ring`).
    ring: *mut BufRingEntry,
    ring_layout: Layout,
    memory: Box<[u8]>,
    count: u16,
    size: usize,
    tail: u16,
}

impl Buffers {
    /// # Panics
    /// If `count` is no power of two up to 32,768.
    pub(crate) fn new(count: u16, size: usize) -> Self {
        assert!(count.is_power_of_two() && count <= 1 << 15, "a buffer ring holds 2^n entries");
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        let ring_layout = Layout::from_size_align(bytes, PAGE).expect("a page-aligned ring");
        // SAFETY: the layout has a size above 0.
        let ring = unsafe { alloc_zeroed(ring_layout) }.cast::<BufRingEntry>();
        if ring.is_null() {
            handle_alloc_error(ring_layout);
        }
        // The buffers are written, not only reserved, so that their pages exist from the start. Page faults would
        // otherwise come when traffic is highest.
        let memory = vec![1; usize::from(count) * size].into_boxed_slice();
        let mut buffers = Self { ring, ring_layout, memory, count, size, tail: 0 };
        buffers.offer_all();
        buffers
    }

    /// Puts the ring back into the state before [`Buffers::new`] offered the buffers. The kernel must not have the
    /// ring.
    pub(crate) fn reset(&mut self) {
        self.tail = 0;
        self.publish();
    }

    /// Offers all buffers and publishes that.
    pub(crate) fn offer_all(&mut self) {
        for buffer in (0..self.count).map(BufferId) {
            self.offer(buffer);
        }
        self.publish();
    }

    /// Address and number of entries, for registration.
    pub(crate) fn ring(&self) -> (u64, u16) {
        (self.ring as u64, self.count)
    }

    /// The `length` bytes that the kernel wrote into `buffer`. They may be changed in place until
    /// the buffer is offered again.
    pub(crate) fn filled(&mut self, buffer: BufferId, length: usize) -> &mut [u8] {
        let begin = usize::from(buffer.0) * self.size;
        &mut self.memory[begin..begin + length.min(self.size)]
    }

    /// Returns `buffer` to the ring. The kernel sees it after [`Buffers::publish`].
    pub(crate) fn offer(&mut self, buffer: BufferId) {
        let begin = usize::from(buffer.0) * self.size;
        let address = self.memory[begin..].as_mut_ptr() as u64;
        let index = self.tail & (self.count - 1);
        // SAFETY: the index is below `count`. The kernel accesses neither the entry nor the buffer
        // between the completion that named the buffer and the store in `publish`. Writing field by
        // field keeps the tail, which shares memory with the first entry.
        let entry = unsafe { &mut *self.ring.add(usize::from(index)) };
        entry.set_addr(address);
        entry.set_len(self.size as u32);
        entry.set_bid(buffer.0);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes the offered buffers visible to the kernel.
    pub(crate) fn publish(&mut self) {
        // SAFETY: `ring` is the first entry of a live, aligned ring. The kernel only reads the
        // tail, with acquire ordering.
        unsafe {
            let tail = BufRingEntry::tail(self.ring).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. The io_uring it was registered with is
        // closed.
        unsafe { dealloc(self.ring.cast(), self.ring_layout) };
    }
}
