//! Outboxes on their way to another process.

use std::sync::Arc;

use comet_proto::Encoded;

use crate::index::Index;
use crate::outbox::chain::Chain;
use crate::outbox::{ChainId, Item, Outbox, PartialSend, PushMeta, Serial};
use crate::parking::{ParkedFrame, ParkedFrames};
use crate::transport::Transport;

use super::Chains;

/// A frame as plain data.
#[derive(Clone, Copy)]
pub(crate) enum ItemParts<'a> {
    Shared {
        /// Within a shard an equal serial means the same frame.
        serial: u32,
        frame: &'a Encoded,
        is_push: bool,
        meta: Option<&'a PushMeta>,
    },
    /// A push of a parcel. The next process stores each as a frame of its own.
    Parked(ParkedFrame<'a>),
}

impl<'a> ItemParts<'a> {
    fn of(item: &'a Item) -> impl Iterator<Item = Self> {
        let Item { serial: Serial(serial), frame, pushes, meta, stored: _ } = item;
        let parcel = item.parcel();
        let shared = parcel.is_none().then_some(Self::Shared {
            serial: *serial,
            frame,
            is_push: *pushes > 0,
            meta: meta.as_deref(),
        });
        let parked = parcel.into_iter().flat_map(ParkedFrames::iter).map(Self::Parked);
        shared.into_iter().chain(parked)
    }

    fn length(&self, transport: Transport) -> u32 {
        let bytes = match self {
            Self::Shared { frame, .. } => transport.bytes(frame),
            Self::Parked(push) => push.on(transport),
        };
        bytes.len() as u32
    }
}

impl Chains {
    /// The frames of an outbox that the kernel has not taken whole, and the number of bytes that it took of the first
    /// one.
    pub(crate) fn hand_over(
        &self,
        outbox: &Outbox,
        transport: Transport,
    ) -> (Vec<ItemParts<'_>>, u32) {
        let Outbox { pending, in_flight, mut taken } = *outbox;
        let mut items = Vec::new();
        for index in [in_flight, pending].into_iter().filter(|index| *index != ChainId::NONE) {
            let Chain { log, run, .. } = self.chains[index];
            let frames = self.logs[log].frames(&self.frames, run);
            items.extend(frames.flat_map(|(_, item)| ItemParts::of(item)));
        }
        let mut skipped = 0;
        while taken > 0 {
            let length = items[skipped].length(transport);
            if taken < length {
                break;
            }
            taken -= length;
            skipped += 1;
        }
        items.drain(..skipped);
        (items, taken)
    }

    /// A frame of another process.
    pub(crate) fn arrived_item(
        &mut self,
        frame: Encoded,
        is_push: bool,
        meta: Option<Arc<PushMeta>>,
    ) -> Item {
        let mut item = self.item(frame, is_push);
        item.set_meta(meta);
        item
    }

    /// An outbox with these frames. A send that has begun continues as one that was cut short, with the first frame and
    /// the sealed ones. The other frames wait.
    pub(crate) fn take_over<'a>(
        &mut self,
        mut items: impl Iterator<Item = &'a Item>,
        transport: Transport,
        begun: Option<PartialSend>,
    ) -> Outbox {
        let mut outbox = Outbox::EMPTY;
        if let Some(PartialSend { taken, sealed }) = begun {
            let (mut frames, mut bytes) = (0, 0_u32);
            while (frames == 0 || bytes < taken.saturating_add(sealed))
                && let Some(item) = items.next()
            {
                self.append(&mut outbox, item);
                bytes = bytes.saturating_add(transport.bytes(&item.frame).len() as u32);
                frames += 1;
            }
            outbox.in_flight = std::mem::replace(&mut outbox.pending, ChainId::NONE);
            outbox.taken = taken;
            // Later it tells which frames are taken whole.
            if frames > 1 && self.chains[outbox.in_flight].windows[transport.encoding()].is_none() {
                self.make_window(outbox.in_flight, transport);
            }
        }
        for item in items {
            self.append(&mut outbox, item);
        }
        outbox
    }
}
