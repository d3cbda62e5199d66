//! The frames that wait to be sent. An outbox is three numbers, and equal outboxes are stored once.
//!
//! The pending frames of a connection form a *chain*: a run of a *log*, which has the frames in order. Chains are
//! shared, and are in one store for each shard, [`chains::Chains`]. When a room of a thousand idle members gets a push,
//! all thousand outboxes name the same one-frame chain. The next push moves all of them to the same two-frame chain. So
//! a push costs each member one comparison, and a whole run of equal outboxes one addition to a reference count. The
//! same holds if the outboxes are full and drop their oldest push. If frames are joined into one buffer for sending,
//! that buffer is built once for all connections that send the same frames.

mod chain;
pub(crate) mod chains;
mod frames;
mod log;
mod slices;
mod window;

use std::cell::Cell;
use std::sync::Arc;

use comet_proto::Encoded;

use crate::gaps::Offsets;
use crate::ids::Generation;
use crate::index::{Index, index};
use crate::parking::{ParkedFrames, ParkedPush};

#[cfg(test)]
pub(crate) use log::visits;
pub use slices::Slices;

/// A chain of frames in [`chains::Chains`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct ChainId(u32);

index!(ChainId);

/// Names a chain without holding a reference.
#[derive(Clone, Copy)]
struct WeakChain {
    chain: ChainId,
    generation: Generation,
}

impl WeakChain {
    const NONE: Self = Self { chain: ChainId::NONE, generation: Generation(0) };
}

/// A log in [`chains::Chains`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct LogId(u32);

index!(LogId);

/// A frame in [`frames::FrameStore`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct FrameId(u32);

index!(FrameId);

/// Identifies a frame that the shard handed out: while it is in use, an equal serial means the same frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct Serial(u32);

/// The frames of one connection that the kernel has not taken yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outbox {
    /// Frames that are not being sent yet.
    pending: ChainId,
    /// Frames of the send under way.
    in_flight: ChainId,
    /// The bytes of `in_flight` that the kernel has taken; 0 without a send.
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

/// A frame to append to any number of outboxes.
#[derive(Clone)]
pub(crate) struct Item {
    serial: Serial,
    frame: Encoded,
    /// The pushes in it that the ledger counts: one, or those of a [`PushMeta::parcel`]. 0: it is a reply.
    pushes: u32,
    /// What the outbox has to know about the push. `None` for most pushes.
    meta: Option<Arc<PushMeta>>,
    /// Where it was stored for the first log that took it, and may still be.
    stored: Cell<(FrameId, Generation)>,
}

/// What an outbox has to know about a push, in any form.
#[derive(Clone, Debug, Default)]
pub(crate) struct PushMeta {
    pub(crate) collapse_key: Option<CollapseKey>,
    /// Its place in the history of its room, if the room keeps one.
    pub(crate) offsets: Option<Offsets>,
    /// The form in which a push to a key or user is parked if the connection ends before it is sent.
    pub(crate) direct: Option<ParkedPush>,
    /// Set if the frame is a parcel: the frames of parked pushes, in the form of the transport that it is sent on.
    pub(crate) parcel: Option<ParkedFrames>,
}

impl PushMeta {
    /// Returns `None` if no field is set.
    pub(crate) fn shared(self) -> Option<Arc<Self>> {
        let Self { collapse_key, offsets, direct, parcel } = &self;
        let is_known =
            collapse_key.is_some() || offsets.is_some() || direct.is_some() || parcel.is_some();
        is_known.then(|| Arc::new(self))
    }
}

/// The state that a push is about, if clients need only the latest: an id that its caller gave it, in a room. No room:
/// the push is to all connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CollapseKey {
    pub(crate) room: Option<Arc<str>>,
    pub(crate) id: Arc<str>,
}

impl Item {
    pub(crate) fn frame(&self) -> &Encoded {
        &self.frame
    }

    pub(crate) fn is_push(&self) -> bool {
        self.pushes > 0
    }

    /// The pushes in it, if it is a parcel.
    pub(crate) fn parcel(&self) -> Option<&ParkedFrames> {
        self.meta.as_ref()?.parcel.as_ref()
    }

    /// Whether it is a push that may be dropped for a newer one. A parcel is not, because its client was told how many
    /// pushes follow.
    fn is_droppable(&self) -> bool {
        self.pushes == 1 && self.parcel().is_none()
    }

    pub(crate) fn direct(&self) -> Option<&ParkedPush> {
        self.meta.as_ref()?.direct.as_ref()
    }

    pub(crate) fn meta(&self) -> Option<&Arc<PushMeta>> {
        self.meta.as_ref()
    }

    pub(crate) fn set_meta(&mut self, meta: Option<Arc<PushMeta>>) {
        self.meta = meta;
    }

    pub(crate) fn collapse_key(&self) -> Option<&CollapseKey> {
        self.meta.as_ref()?.collapse_key.as_ref()
    }

    pub(crate) fn offsets(&self) -> Option<Offsets> {
        self.meta.as_ref()?.offsets
    }

    /// Whether it is about the same state as `newer`.
    fn is_outdated_by(&self, newer: &Self) -> bool {
        self.collapse_key().is_some() && self.collapse_key() == newer.collapse_key()
    }

    /// Whether it is a push that is about no state.
    fn is_plain(&self) -> bool {
        self.is_droppable() && self.collapse_key().is_none()
    }
}

/// The result of the latest append of a walk. It holds for every outbox with the same content, so the chains are looked
/// at once for a run of equal outboxes.
#[derive(Clone, Copy)]
pub(crate) struct AppendMemo {
    /// The outbox before the append.
    before: Outbox,
    /// What was pending after the append.
    lengthened: ChainId,
    /// The pushes that were dropped for the frame.
    superseded: Superseded,
    /// The number of outboxes that were changed by memo and are missing in the chains' reference counts.
    uncounted: u32,
}

impl AppendMemo {
    /// Holds for no outbox.
    pub(crate) const NONE: Self = Self {
        before: Outbox::EMPTY,
        lengthened: ChainId::NONE,
        superseded: Superseded { cut: Cut::Oldest(0), pushes: 0, bytes: 0 },
        uncounted: 0,
    };

    /// Repeats the append on `outbox`, if it equals the outbox before that append.
    #[inline]
    pub(crate) fn repeat(&mut self, outbox: &mut Outbox) -> bool {
        let is_equal = *outbox == self.before && self.lengthened != ChainId::NONE;
        if is_equal {
            outbox.pending = self.lengthened;
            self.uncounted += 1;
        }
        is_equal
    }

    /// The pushes that each append dropped.
    pub(crate) fn superseded(&self) -> Superseded {
        self.superseded
    }
}

/// Which waiting pushes are dropped for a newer one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    /// This many of the oldest.
    Oldest(u32),
    /// All pushes that are about the state of the newer one, and this many of the oldest that are about no state.
    Outdated { plain: u32 },
}

impl Default for Cut {
    fn default() -> Self {
        Self::Oldest(0)
    }
}

/// Pushes of an outbox that are dropped for a newer one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Superseded {
    cut: Cut,
    pub(crate) pushes: u32,
    pub(crate) bytes: u32,
}

impl Superseded {
    /// How many of the pushes are lost: the newer push takes only their place. The others were about the same state.
    pub(crate) fn displaced(self) -> u32 {
        match self.cut {
            Cut::Oldest(pushes) | Cut::Outdated { plain: pushes } => pushes,
        }
    }
}

/// The progress of a send in another process.
#[derive(Clone, Copy)]
pub(crate) struct PartialSend {
    /// Bytes of the first frame that the kernel took.
    pub(crate) taken: u32,
    /// The bytes behind these that the driver has sealed.
    pub(crate) sealed: u32,
}

/// The result of the completion of a send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SendProgress {
    /// Pushes of which the kernel took the last byte.
    pub(crate) pushes: u32,
    /// Whether everything in flight is taken.
    pub(crate) is_done: bool,
}

/// What a cleared outbox has lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Remains {
    /// Pushes that the kernel did not take to the last byte.
    pub(crate) pushes: u32,
    /// Bytes that it did not take.
    pub(crate) bytes: u32,
}

/// The frames of an outbox that the kernel has not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Load {
    pub(crate) pushes: u32,
    pub(crate) replies: u32,
    pub(crate) bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The metadata of a push is stored outside the item, so that a push without a state or a history costs only a
    /// pointer.
    #[test]
    fn a_frame_that_waits_takes_no_more_than_before() {
        assert!(size_of::<Item>() <= 48, "{} bytes", size_of::<Item>());
    }
}
