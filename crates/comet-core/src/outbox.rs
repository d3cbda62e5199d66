//! What waits to be sent. An outbox is three numbers, and equal outboxes are stored once.
//!
//! The frames a connection has pending form a *chain*: the last frame, and the chain before it. Chains are in
//! one store for each shard, [`chains::Chains`], and are shared. When a room of a thousand idle members gets
//! a push, all thousand outboxes name the same one-frame chain. The next push moves all of them to the same
//! two-frame chain. So a push costs each member one comparison, and a whole run of equal outboxes one
//! addition to a reference count. The bytes of a frame are shared by all outboxes. Where frames are joined
//! into one buffer for sending, that buffer is built once for all connections with the same frames pending.

pub(crate) mod chains;

use comet_proto::Encoded;

use crate::index::{Index, index};

/// A chain of frames in [`chains::Chains`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct ChainId(u32);

index!(ChainId);

/// Tells apart the frames that a shard hands out: while one is handed out, an equal serial is the same frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct Serial(u32);

/// The frames of one connection that the kernel has not taken yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outbox {
    /// Frames that wait.
    pending: ChainId,
    /// Frames of the send that is under way.
    in_flight: ChainId,
    /// Bytes of `in_flight` that the kernel took already.
    taken: u32,
}

impl Outbox {
    pub(crate) const EMPTY: Self =
        Self { pending: ChainId::NONE, in_flight: ChainId::NONE, taken: 0 };

    pub(crate) fn is_sending(&self) -> bool {
        self.in_flight != ChainId::NONE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight == ChainId::NONE && self.pending == ChainId::NONE
    }
}

/// One frame on its way into any number of outboxes.
#[derive(Clone)]
pub(crate) struct Item {
    serial: Serial,
    frame: Encoded,
    /// A push, which the ledger counts; otherwise a reply.
    is_push: bool,
}

impl Item {
    pub(crate) fn frame(&self) -> &Encoded {
        &self.frame
    }
}

/// The result of the latest append of a walk. It holds for every outbox that is as that one was, so a run of
/// equal outboxes looks at the chains once.
#[derive(Clone, Copy)]
pub(crate) struct AppendMemo {
    /// The outbox before the append.
    pending: ChainId,
    in_flight: ChainId,
    /// What it had pending after the append.
    lengthened: ChainId,
    /// Outboxes that were changed by memo and are not in the chains' reference counts yet.
    uncounted: u32,
}

impl AppendMemo {
    /// Holds for no outbox.
    pub(crate) const NONE: Self = Self {
        pending: ChainId::NONE,
        in_flight: ChainId::NONE,
        lengthened: ChainId::NONE,
        uncounted: 0,
    };

    /// Repeats the append on `outbox`, if that is as the one before it was.
    #[inline]
    pub(crate) fn repeat(&mut self, outbox: &mut Outbox) -> bool {
        let is_equal = outbox.pending == self.pending
            && outbox.in_flight == self.in_flight
            && self.lengthened != ChainId::NONE;
        if is_equal {
            outbox.pending = self.lengthened;
            self.uncounted += 1;
        }
        is_equal
    }
}

/// What the completion of a send led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SendProgress {
    /// More of the same chain must be sent.
    Partial,
    /// All of it was taken, with so many pushes in it.
    Done { pushes: u32 },
}

/// What an outbox held when it was cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Remains {
    /// Pushes that the kernel took to the last byte.
    pub(crate) sent: u32,
    /// Pushes that it did not.
    pub(crate) lost: u32,
    /// Bytes that it did not.
    pub(crate) bytes: u32,
}

/// Totals of one outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Load {
    pub(crate) pushes: u32,
    pub(crate) replies: u32,
    pub(crate) bytes: u32,
}
