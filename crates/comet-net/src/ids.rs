//! The numbers that the driver and the kernel exchange, each as a type of its own.

use comet_core::ConnId;

/// Index of a socket in the driver's table. It is the slot of its connection in the shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SocketSlot(pub(crate) u32);

impl SocketSlot {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<ConnId> for SocketSlot {
    fn from(conn: ConnId) -> Self {
        Self(conn.slot)
    }
}

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
