//! The operations of the ring, and how a completion is matched to its operation.

use comet_core::{CallerSlot, Slot};

use crate::ids::{BufferId, ListenerIndex};

/// An operation in flight, and its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// The multishot poll of the wake-up eventfd.
    Wakeup,
    /// An accept of a listener: the multishot one, or one of several single ones.
    Accept(ListenerIndex),
    /// The multishot receive of a socket.
    Recv(Slot),
    /// A send on a socket.
    Send(Slot),
    /// The cancellation of another operation.
    Cancel,
    /// The multishot accept of a listener for push callers.
    AcceptCaller(ListenerIndex),
    /// A receive of a push caller's socket.
    RecvCaller(CallerSlot),
    /// A send on a push caller's socket.
    SendCaller(CallerSlot),
}

impl Operation {
    /// Whether the operation changes something even without receive buffers.
    pub(super) fn has_effect(self) -> bool {
        !matches!(self, Self::Recv(_) | Self::Wakeup)
    }

    /// The operation as the user data of its submission: the kind in the upper half, the index
    /// below.
    pub(super) fn to_user_data(self) -> u64 {
        let (kind, index) = match self {
            Self::Wakeup => (0, 0),
            Self::Accept(ListenerIndex(index)) => (1, index),
            Self::Recv(Slot(slot)) => (2, slot),
            Self::Send(Slot(slot)) => (3, slot),
            Self::Cancel => (4, 0),
            Self::AcceptCaller(ListenerIndex(index)) => (5, index),
            Self::RecvCaller(CallerSlot(slot)) => (6, slot.into()),
            Self::SendCaller(CallerSlot(slot)) => (7, slot.into()),
        };
        kind << 32 | u64::from(index)
    }

    /// The inverse of [`Operation::to_user_data`]; the kernel returns user data unchanged.
    pub(super) fn from_user_data(data: u64) -> Self {
        let index = data as u32;
        match data >> 32 {
            0 => Self::Wakeup,
            1 => Self::Accept(ListenerIndex(index)),
            2 => Self::Recv(Slot(index)),
            3 => Self::Send(Slot(index)),
            5 => Self::AcceptCaller(ListenerIndex(index)),
            6 => Self::RecvCaller(CallerSlot(index as u16)),
            7 => Self::SendCaller(CallerSlot(index as u16)),
            _ => Self::Cancel,
        }
    }
}

/// One entry of the completion queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) operation: Operation,
    /// A number of bytes or a descriptor; or an error number.
    pub(crate) result: Result<u32, i32>,
    /// The buffer that a receive filled.
    pub(crate) buffer: Option<BufferId>,
    /// More completions of the operation follow. If not, it has to be submitted again.
    pub(crate) more: bool,
}
