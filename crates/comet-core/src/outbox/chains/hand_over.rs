//! Outboxes on their way to another process.

use std::sync::Arc;

use comet_proto::Encoded;

use crate::index::Index;
use crate::outbox::chain::Chain;
use crate::outbox::{ChainId, Item, Outbox, PartialSend, Serial, Subject};
use crate::transport::Transport;

use super::Chains;

/// A frame as plain data.
pub(crate) struct ItemParts<'a> {
    /// Within a shard an equal serial is the same frame.
    pub(crate) serial: u32,
    pub(crate) frame: &'a Encoded,
    pub(crate) is_push: bool,
    pub(crate) subject: Option<&'a Subject>,
}

impl Chains {
    /// The frames of an outbox that the kernel has not taken whole, and how many bytes of the first one it took.
    pub(crate) fn hand_over(
        &self,
        outbox: &Outbox,
        transport: Transport,
    ) -> (Vec<ItemParts<'_>>, u32) {
        let Outbox { pending, in_flight, mut taken } = *outbox;
        let mut items = Vec::new();
        for index in [in_flight, pending].into_iter().filter(|index| *index != ChainId::NONE) {
            let Chain { log, run, .. } = self.chains[index];
            items.extend(self.logs[log].frames(&self.frames, run).map(|(_, item)| item));
        }
        let mut skipped = 0;
        while taken > 0 {
            let length = transport.bytes(&items[skipped].frame).len() as u32;
            if taken < length {
                break;
            }
            taken -= length;
            skipped += 1;
        }
        let items = items.into_iter().skip(skipped).map(|item| {
            let Item { serial: Serial(serial), frame, is_push, subject, stored: _ } = item;
            let subject = subject.as_deref();
            ItemParts { serial: *serial, frame, is_push: *is_push, subject }
        });
        (items.collect(), taken)
    }

    /// A frame of another process.
    pub(crate) fn arrived_item(
        &mut self,
        frame: Encoded,
        is_push: bool,
        subject: Option<Arc<Subject>>,
    ) -> Item {
        let mut item = self.item(frame, is_push);
        item.set_subject(subject);
        item
    }

    /// An outbox with these frames. A send that has begun goes on as one that was cut short, with the first frame and those that are
    /// sealed; the others wait.
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
            // It tells which frames are whole once more is taken.
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
