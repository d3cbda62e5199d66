//! The numbers that the driver and the kernel exchange, each as a type of its own. A socket has the slot of
//! its connection in the shard, [`comet_core::Slot`].

/// Index of a listener in the driver's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ListenerIndex(pub(crate) u32);

impl ListenerIndex {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of a receive buffer in the provided-buffer ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BufferId(pub(crate) u16);
